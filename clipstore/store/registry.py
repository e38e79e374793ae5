"""Entering shards into the catalog, and striking out those whose files are gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from clipstore.catalog import Session
from clipstore.shards import Shard
from clipstore.store.layout import Store

# The statements that register shards, in order.
_STEPS = (
    "embed/delete_empty_shards",
    "embed/add_shards",
    "embed/add_vectors",
    "embed/delete_resolved_failures",
    "embed/add_failures",
)


def register(session: Session, store: Store, shards: Sequence[Shard]) -> None:
    """Enter complete shards, their rows and their failures into the catalog."""
    named = [(str(shard.path.relative_to(store.root)), shard) for shard in shards]
    session.stage(
        staged_shards=pa.Table.from_pylist([_shard_row(file, shard) for file, shard in named]),
        staged_vectors=pa.concat_tables([_vector_rows(file, shard) for file, shard in named]),
        staged_failures=pa.concat_tables([_failure_rows(shard) for shard in shards]),
    )
    for step in _STEPS:
        session.run(step)


def delete_missing_shards(session: Session, store: Store, fingerprint: str) -> int:
    """Strike out the shards of a fingerprint whose files are gone, so that they are planned again; how many."""
    shards = session.rows("evaluate/shards", fingerprint=fingerprint)
    lost = [row["shard_id"] for row in shards if not (store.root / row["file"]).is_file()]
    for statement in ("embed/remove_vectors", "embed/remove_shards"):
        session.run(statement, shards=lost)
    return len(lost)


def _shard_row(file: str, shard: Shard) -> dict[str, Any]:
    return {
        "fingerprint": shard.info.fingerprint,
        "kind": shard.info.kind,
        "tower": shard.info.tower,
        "file": file,
        "items": len(shard.contents),
        "failed": len(shard.failures),
        "cut": shard.info.cut,
        "dim": shard.dim,
        "dtype": shard.dtype,
        "bytes": shard.size,
        "checksum": shard.checksum,
    }


def _vector_rows(file: str, shard: Shard) -> pa.Table:
    size = len(shard.contents)
    return pa.table(
        {
            "file": pa.repeat(file, size),
            "fingerprint": pa.repeat(shard.info.fingerprint, size),
            "content": pa.array(shard.contents, pa.string()),
            "row": pa.array(range(size), pa.int32()),
        }
    )


def _failure_rows(shard: Shard) -> pa.Table:
    size = len(shard.failures)
    return pa.table(
        {
            "fingerprint": pa.repeat(shard.info.fingerprint, size),
            "tower": pa.repeat(shard.info.tower, size),
            "content": pa.array(shard.failures.keys(), pa.string()),
            "reason": pa.array(shard.failures.values(), pa.string()),
        }
    )
