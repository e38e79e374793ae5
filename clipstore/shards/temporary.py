"""Temporary files of shards, `.NAME.PROCESS@HOST.tmp`, as killed processes leave them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clipstore.files import is_leftover


def temporary_files(folder: Path, name: str = "") -> Iterator[Path]:
    """The temporary files in a folder, of the shard `name` or of all, that killed processes left.

    Those of living processes are not included: two may write a shard at the same time, with the same rows.
    """
    if folder.is_dir():
        for file in sorted(folder.iterdir()):
            of_shard = file.name.startswith(f".{name}.") if name else file.name.startswith(".")
            is_temporary = of_shard and file.suffix == ".tmp" and not file.is_symlink() and file.is_file()
            if is_temporary and is_leftover(file, file.name.split(".")[-2]):
                yield file
