"""Check the score shards of a store: registered ones, and other files in their folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from clipstore.errors import ShardError
from clipstore.pipeline.verify.files import unregistered
from clipstore.pipeline.verify.findings import Finding
from clipstore.progress import Progress
from clipstore.records import Row
from clipstore.shards import Storage, file_checksum, read_scores
from clipstore.store.layout import Store
from clipstore.store.scores import read_folder_scores
from clipstore.store.storage import shard_storage


def check_scores(store: Store, listed: Sequence[Row], on_progress: Progress) -> Iterator[Finding]:
    """Problems of the registered score shards, as `rerank/shards` lists them, and of other files in scores/."""
    storage = shard_storage(store)
    missing = storage.missing(row["file"] for row in listed)
    for done, row in enumerate(listed, 1):
        file = row["file"]
        problem = "the file does not exist" if file in missing else _problem(storage, row)
        if problem:
            place: dict[str, Any] = {"path": storage.location(file), "file": None if file in missing else file}
            yield Finding(kind="scores", problem=problem, score_file=file, fingerprint=row["fingerprint"], **place)
        on_progress("score shards verified", done, len(listed))
    for unknown in unregistered(storage, "scores", {row["file"] for row in listed}):
        yield unknown if isinstance(unknown, Finding) else _unregistered(storage, unknown)


def _problem(storage: Storage, row: Row) -> str | None:
    """Why a registered score shard is not usable; a file with the registered checksum is not read further."""
    try:
        with storage.original(row["file"]) as path:
            if file_checksum(path) == row["file_checksum"]:
                return None
            shard = read_scores(path)
    except ShardError as error:
        return f"the bytes have changed: {error}"
    if (shard.checksum, shard.info.fingerprint) != (row["checksum"], row["fingerprint"]):
        return "it is not the shard that is registered"
    return "the bytes outside the scores have changed"


def _unregistered(storage: Storage, file: str) -> Finding:
    place: dict[str, Any] = {"path": storage.location(file), "file": file}
    try:
        read_folder_scores(storage, file)
    except ShardError as error:
        return Finding(kind="orphan", problem=f"it is not a valid score shard: {error}", invalid=True, **place)
    problem = "its scores are not registered: 'clipstore rerank' of its model registers them"
    return Finding(kind="orphan", problem=problem, **place)
