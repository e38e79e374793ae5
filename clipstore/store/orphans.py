"""Shard files that are not registered, as a process leaves them that ended before it registered them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.records import ShardKind, Tower, TowerName
from clipstore.shards import Shard, read_shard, temporary_files
from clipstore.store.layout import Store
from clipstore.store.registry import register


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
    expected = expected_rows(towers)
    for fingerprint in expected:
        for leftover in temporary_files(store.shards / fingerprint):
            leftover.unlink(missing_ok=True)
    if not any(shard_files(store, fingerprint) for fingerprint in expected):
        return []
    with store.catalog.read() as session:
        orphans = [path for fingerprint in expected for path in unregistered_files(session, store, fingerprint)]
        complete = [shard for path in orphans if (shard := _useful(session, path, expected))]
    if complete:
        with store.catalog.write(limited=True) as session:
            register(session, store, complete)
    return complete


def expected_rows(towers: Iterable[Tower]) -> dict[str, ExpectedRows]:
    """What the shards of some towers and their backbones hold, by fingerprint."""
    expected = {}
    for tower in towers:
        expected[tower.fingerprint] = ExpectedRows("vectors", tower.tower, tower.dim)
        if tower.backbone:
            expected[tower.backbone] = ExpectedRows("features", tower.tower, tower.features_dim)
    return expected


def unregistered_files(session: Session, store: Store, fingerprint: str) -> Iterator[Path]:
    """The files of a fingerprint with the name of a shard that the catalog does not have."""
    files = shard_files(store, fingerprint)
    if files:
        registered = {store.root / row["file"] for row in session.rows("embed/shard_files", fingerprint=fingerprint)}
        yield from (path for path in files if path not in registered)


def shard_files(store: Store, fingerprint: str) -> list[Path]:
    """The files of a fingerprint with the name of a shard, in order."""
    folder = store.shards / fingerprint
    return sorted(path for path in folder.glob("*.h5") if path.name[0] != "." and path.is_file())


def new_contents(session: Session, shard: Shard) -> int:
    """The number of a shard's items of which its fingerprint has no vector yet."""
    session.stage(staged_contents=pa.table({"content": pa.array(shard.contents, pa.string())}))
    rows = session.rows("shards/count_new_contents", fingerprint=shard.info.fingerprint)
    return int(rows[0]["contents"])


def _useful(session: Session, path: Path, expected: dict[str, ExpectedRows]) -> Shard | None:
    """The shard at a path if it is undamaged and has vectors that are needed. The rows of others are not read."""
    try:
        shard = read_shard(path)
        rows = ExpectedRows(shard.info.kind, shard.info.tower, shard.dim)
        if shard.info.fingerprint != path.parent.name or expected[path.parent.name] != rows:
            return None
        return read_shard(path, check=True) if new_contents(session, shard) else None
    except ShardError:
        return None
