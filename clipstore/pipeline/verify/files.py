"""Check the other files of a store: unregistered shards, temporary files, adapters and checkpoints."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.pipeline.verify.findings import Finding
from clipstore.records import Row
from clipstore.shards import Storage, read_shard
from clipstore.store.layout import Store
from clipstore.store.orphans import new_contents
from clipstore.store.storage import shard_storage
from clipstore.training_files import BEST, LAST, STATE, TRAINING_IMAGES, TRAINING_RECORD, changed_files

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_files(store: Store) -> Iterator[Finding]:
    """Problems of the files in shards/ that are not registered, and of adapters/."""
    storage = shard_storage(store)
    with store.catalog.read() as session:
        registered = {row["file"] for row in session.rows("verify/files")}
        for file in unregistered(storage, "shards", registered):
            yield file if isinstance(file, Finding) else _orphan(session, storage, file)
    for name in sorted(folder for folder in store.adapters.glob("*") if folder.is_dir() and folder.name[0] != "."):
        for checkpoint in (name / BEST, name / LAST):
            if checkpoint.is_dir():
                yield from _check_adapter(checkpoint)


def unregistered(storage: Storage, folder: str, registered: set[str]) -> Iterator[Finding | str]:
    """The files of a folder of shards that are not registered: a finding, or the file if it has the name of a shard."""
    leftovers = set(storage.leftovers(folder))
    for file in storage.files(folder):
        name = file.rpartition("/")[2]
        if file in leftovers:
            problem = "a process that has ended left it"
            yield Finding(kind="leftover", path=storage.location(file), file=file, problem=problem)
        elif name.endswith(".h5") and name[0] != "." and file not in registered:
            yield file
        elif file not in registered and not (name[0] == "." and name.endswith(".tmp")):
            yield Finding(kind="unknown", path=storage.location(file), problem="clipstore did not write it")


def _orphan(session: Session, storage: Storage, file: str) -> Finding:
    """A shard file that is not registered: complete and needed, complete and a duplicate, or not valid."""
    place: dict[str, Any] = {"path": storage.location(file), "file": file}
    try:
        with storage.original(file) as stored:
            shard = read_shard(stored, check=True)
        if shard.info.fingerprint != storage.path(file).parent.name:
            problem = "it is of another fingerprint than its folder"
            return Finding(kind="orphan", problem=problem, invalid=True, **place)
        count = new_contents(session, shard)
    except ShardError as error:
        return Finding(kind="orphan", problem=f"it is not a valid shard: {error}", invalid=True, **place)
    if count:
        problem = f"it has {count} vectors that the catalog lacks: 'clipstore embed' of its model registers it"
        return Finding(kind="orphan", problem=problem, **place)
    return Finding(kind="duplicate", problem="all of its items have a vector in another shard", **place)


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
