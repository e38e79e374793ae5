"""Check the other files of a store: unregistered shards, temporary files, adapters and checkpoints."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.pipeline.verify.findings import Finding
from clipstore.records import Row
from clipstore.shards import read_shard, temporary_files
from clipstore.store.layout import Store
from clipstore.store.orphans import new_contents
from clipstore.training_files import BEST, LAST, STATE, TRAINING_IMAGES, TRAINING_RECORD, changed_files

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_files(store: Store) -> Iterator[Finding]:
    """Problems of the files in shards/ that are not registered, and of adapters/."""
    with store.catalog.read() as session:
        registered = {store.root / row["file"] for row in session.rows("verify/files")}
        for folder, names in _folders(store.shards):
            leftovers = set(temporary_files(folder))
            for path in sorted(folder / name for name in names):
                if path in leftovers:
                    yield Finding(kind="leftover", path=path, problem="a process that has ended left it")
                elif path.suffix == ".h5" and path.name[0] != "." and path not in registered:
                    yield _orphan(session, path)
                elif path not in registered and not (path.name[0] == "." and path.suffix == ".tmp"):
                    yield Finding(kind="unknown", path=path, problem="clipstore did not write it")
    for name in sorted(folder for folder in store.adapters.glob("*") if folder.is_dir() and folder.name[0] != "."):
        for checkpoint in (name / BEST, name / LAST):
            if checkpoint.is_dir():
                yield from _check_adapter(checkpoint)


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    for folder, _, names in sorted(os.walk(root)):
        yield Path(folder), names


def _orphan(session: Session, path: Path) -> Finding:
    """A shard file that is not registered: complete and needed, complete and a duplicate, or not valid."""
    try:
        shard = read_shard(path, check=True)
        if shard.info.fingerprint != path.parent.name:
            return Finding(
                kind="orphan", path=path, problem="it is of another fingerprint than its folder", invalid=True
            )
        count = new_contents(session, shard)
    except ShardError as error:
        return Finding(kind="orphan", path=path, problem=f"it is not a valid shard: {error}", invalid=True)
    if count:
        problem = f"it has {count} vectors that the catalog lacks: 'clipstore embed' of its model registers it"
        return Finding(kind="orphan", path=path, problem=problem)
    return Finding(kind="duplicate", path=path, problem="all of its items have a vector in another shard")


def _check_adapter(folder: Path) -> Iterator[Finding]:
    changed = changed_files(folder)
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if problem := _file_problem(path) or changed.pop(path.name, None):
            yield Finding(kind="adapter", path=path, problem=problem)
        changed.pop(path.name, None)
    for name, problem in changed.items():
        yield Finding(kind="adapter", path=folder / name, problem=problem)


def _file_problem(path: Path) -> str | None:
    """Why a file of an adapter cannot be what its name says; None: it can, or the name says nothing."""
    check = _CHECKS.get(path.name) or _CHECKS.get(path.suffix)
    try:
        return check(path) if check else None
    except (OSError, ValueError, RecursionError, SafetensorError, zipfile.BadZipFile) as error:
        return f"it cannot be read: {error}"


def _json_problem(path: Path) -> str | None:
    content: Row = json.loads(path.read_text(encoding="utf-8"))
    return None if isinstance(content, dict) else "it is not a JSON object"


def _list_problem(path: Path) -> str | None:
    lines = path.read_text(encoding="utf-8").split()
    return None if all(map(_SHA256.fullmatch, lines)) else "a line is not a SHA-256 in hex"


def _weights_problem(path: Path) -> str | None:
    with safe_open(path, framework="np") as file:  # compares the sizes of all tensors with that of the file
        return None if list(file.keys()) else "it has no tensors"


def _state_problem(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    return f"its part {damaged} does not match its checksum" if damaged else None


# How files are read, by name or ending.
_CHECKS: Mapping[str, Callable[[Path], str | None]] = {
    TRAINING_RECORD: _json_problem,
    "adapter_config.json": _json_problem,
    TRAINING_IMAGES: _list_problem,
    ".safetensors": _weights_problem,
    STATE: _state_problem,
}
