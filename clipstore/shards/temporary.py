"""Temporary files of shards, `.NAME.PROCESS.tmp`, as killed processes leave them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def temporary_files(folder: Path, name: str = "") -> Iterator[Path]:
    """The temporary files in a folder, of the shard `name` or of all, that killed processes left.

    Those of living processes are not included: two may write a shard at the same time, with the same rows.
    """
    if folder.is_dir():
        for file in sorted(folder.iterdir()):
            of_shard = file.name.startswith(f".{name}.") if name else file.name.startswith(".")
            if of_shard and file.suffix == ".tmp" and not file.is_symlink() and file.is_file() and not _alive(file):
                yield file


def _alive(file: Path) -> bool:
    """Whether the process in the name of a temporary file may be running; True for a file without a process number."""
    number = file.name.split(".")[-2]
    if not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)  # signal 0 only checks that the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    return True
