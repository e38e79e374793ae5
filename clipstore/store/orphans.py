"""Shard files that are not registered, as a process leaves them that ended before it registered them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa

from clipstore.catalog import MemoryLimit, Session
from clipstore.errors import ShardError
from clipstore.records import ShardKind, Tower, TowerName
from clipstore.shards import Shard, Storage, is_shard_name, read_shard
from clipstore.store.layout import Store
from clipstore.store.registry import register
from clipstore.store.storage import shard_storage


class ExpectedRows(NamedTuple):
    """What the shards of a fingerprint hold."""

    kind: ShardKind
    tower: TowerName
    dim: int


def adopt_orphans(store: Store, towers: Iterable[Tower]) -> list[Shard]:
    """Register the complete shards of some towers that are not registered, and remove temporary files beside them.

    A shard is adopted even if its items would be planned otherwise now. It is left where it is if it is damaged, of
    another fingerprint, or has vectors only of items that have one already. The caller holds the lock for writing
    shards.
    """
    expected, storage = expected_rows(towers), shard_storage(store)
    for fingerprint in expected:
        for leftover in storage.leftovers(f"shards/{fingerprint}"):
            storage.remove(leftover)
    files = [file for fingerprint in expected for file in shard_files(storage, fingerprint)]
    if not files:
        return []
    with store.catalog.read() as session:
        orphans = unregistered_files(session, files, expected)
        complete = [shard for file in orphans if (shard := _useful(session, storage, file, expected))]
    if complete:
        with store.catalog.write(limit=MemoryLimit.REGISTER) as session:
            register(session, complete)
    return complete


def expected_rows(towers: Iterable[Tower]) -> dict[str, ExpectedRows]:
    """What the shards of some towers and their backbones hold, by fingerprint."""
    expected = {}
    for tower in towers:
        expected[tower.fingerprint] = ExpectedRows("vectors", tower.tower, tower.dim)
        if tower.backbone:
            expected[tower.backbone] = ExpectedRows("features", tower.tower, tower.features_dim)
    return expected


def unregistered_files(session: Session, files: Iterable[str], fingerprints: Iterable[str]) -> list[str]:
    """Those of some files of these fingerprints that the catalog does not have."""
    registered = {
        row["file"]
        for fingerprint in fingerprints
        for row in session.rows("embed/shard_files", fingerprint=fingerprint)
    }
    return [file for file in files if file not in registered]


def shard_files(storage: Storage, fingerprint: str) -> list[str]:
    """The files of a fingerprint with the name of a shard, in order."""
    listed = storage.files(f"shards/{fingerprint}")
    return [file for file, stored in listed.items() if stored.is_file and is_shard_name(file)]


def new_contents(session: Session, shard: Shard) -> int:
    """The number of a shard's items of which its fingerprint has no vector yet."""
    session.stage(staged_contents=pa.table({"content": pa.array(shard.contents, pa.string())}))
    rows = session.rows("shards/count_new_contents", fingerprint=shard.info.fingerprint)
    return int(rows[0]["contents"])


def _useful(session: Session, storage: Storage, file: str, expected: dict[str, ExpectedRows]) -> Shard | None:
    """A shard if it is undamaged and has vectors that are needed. The rows of others are not read."""
    path = storage.path(file)
    fingerprint = path.parent.name
    try:
        with storage.original(file) as stored:
            shard = read_shard(stored)
            rows = ExpectedRows(shard.info.kind, shard.info.tower, shard.dim)
            if shard.info.fingerprint != fingerprint or expected[fingerprint] != rows:
                return None
            return replace(read_shard(stored, check=True), path=path) if new_contents(session, shard) else None
    except ShardError:
        return None
