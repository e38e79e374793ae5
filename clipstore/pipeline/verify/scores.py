"""Check the score shards of a store: registered ones, and other files in their folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipstore.errors import ShardError
from clipstore.pipeline.verify.findings import Finding
from clipstore.progress import Progress
from clipstore.records import Row
from clipstore.shards import file_checksum, read_scores, temporary_files
from clipstore.store.layout import Store
from clipstore.store.scores import read_folder_scores


def check_scores(store: Store, listed: Sequence[Row], on_progress: Progress) -> Iterator[Finding]:
    """Problems of the registered score shards, as `rerank/shards` lists them, and of other files in scores/."""
    for done, row in enumerate(listed, 1):
        path = store.root / row["file"]
        problem = _problem(path, row)
        if problem:
            yield Finding(
                kind="scores", path=path, problem=problem, score_file=row["file"], fingerprint=row["fingerprint"]
            )
        on_progress("score shards verified", done, len(listed))
    registered = {store.root / row["file"] for row in listed}
    for folder, _, names in sorted(os.walk(store.scores)):
        leftovers = set(temporary_files(Path(folder)))
        for path in sorted(Path(folder) / name for name in names):
            if path in leftovers:
                yield Finding(kind="leftover", path=path, problem="a process that has ended left it")
            elif path not in registered and not (path.name[0] == "." and path.suffix == ".tmp"):
                yield _unregistered(path)


def _problem(path: Path, row: Row) -> str | None:
    """Why a registered score shard is not usable; a file with the registered checksum is not read further."""
    if not path.is_file():
        return "the file does not exist"
    try:
        if file_checksum(path) == row["file_checksum"]:
            return None
        shard = read_scores(path)
    except ShardError as error:
        return f"the bytes have changed: {error}"
    if (shard.checksum, shard.info.fingerprint) != (row["checksum"], row["fingerprint"]):
        return "it is not the shard that is registered"
    return "the bytes outside the scores have changed"


def _unregistered(path: Path) -> Finding:
    if path.suffix != ".h5" or path.name[0] == ".":
        return Finding(kind="unknown", path=path, problem="clipstore did not write it")
    try:
        read_folder_scores(path)
    except ShardError as error:
        return Finding(kind="orphan", path=path, problem=f"it is not a valid score shard: {error}", invalid=True)
    problem = "its scores are not registered: 'clipstore rerank' of its model registers them"
    return Finding(kind="orphan", path=path, problem=problem)
