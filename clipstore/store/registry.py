"""Register shards in the catalog, read rows of registered ones, and delete those whose files are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.records import RegisteredShard, Row
from clipstore.shards import Shard, Storage, gather, shard_file
from clipstore.store.layout import Store
from clipstore.store.storage import shard_storage


def register(session: Session, shards: Sequence[Shard]) -> None:
    """Add complete shards, their rows and their failures to the catalog."""
    files = [(shard_file(shard.path), shard) for shard in shards]
    session.stage(
        staged_shards=_shard_rows(files),
        staged_vectors=pa.concat_tables([_vector_rows(file, shard) for file, shard in files]),
        staged_failures=pa.concat_tables([_failure_rows(shard) for shard in shards]),
    )
    session.run("embed/delete_empty_shards")
    delete_shards(session, [row["shard_id"] for row in session.rows("shards/rewritten")])
    session.run("embed/add_shards")
    session.run("shards/delete_checksums")
    session.run("shards/add_checksums")
    session.run("embed/add_vectors")
    session.run("embed/delete_resolved_failures")
    session.run("embed/add_failures")


def registered_shards(session: Session, store: Store, files: Iterable[str]) -> dict[str, RegisteredShard]:
    """The registered shards among some files, which are relative to the store, by file."""
    rows, storage = session.rows("shards/registered", files=list(files)), shard_storage(store)
    return {row["file"]: registered_shard(storage, row) for row in rows}


def gather_rows(registered: Mapping[str, RegisteredShard], table: pa.Table) -> NDArray[Any]:
    """The stored row that each row of `table` names by `file` and `row`, in its order: (N, D), see `shards.gather`.

    The shards were read from the catalog before (`registered_shards`), so that it is not open while files are read.

    Raises:
        ShardError: a file is missing, cannot be read, is damaged, or is not the one that was registered.
    """
    files = table["file"].combine_chunks().dictionary_encode()
    which, rows = (column.to_numpy(zero_copy_only=False).astype(np.int64) for column in (files.indices, table["row"]))
    return gather([registered[file] for file in files.dictionary.to_pylist()], which, rows)


def registered_shard(storage: Storage, row: Row) -> RegisteredShard:
    """A row of the table of shards as a record."""
    names = ("kind", "tower", "fingerprint", "items", "dim", "dtype", "checksum", "file_checksum")
    file = row["file"]
    return storage.locate(RegisteredShard(path=Path(file), **{name: row[name] for name in names}), file)


def missing_shards(session: Session, store: Store, fingerprint: str) -> list[int]:
    """The ids of the registered shards of a fingerprint whose files are missing."""
    rows = session.rows("embed/shard_files", fingerprint=fingerprint)
    missing = shard_storage(store).missing(row["file"] for row in rows)
    return [row["shard_id"] for row in rows if row["file"] in missing]


def delete_missing_shards(session: Session, store: Store, fingerprint: str) -> None:
    """Delete the shards of a fingerprint whose files are missing, and their vectors, from the catalog."""
    delete_shards(session, missing_shards(session, store, fingerprint))


def delete_shards(session: Session, shard_ids: Sequence[int]) -> None:
    """Delete shards, their vectors and their checksums from the catalog; the files stay."""
    if shard_ids:
        session.run("embed/delete_vectors", shards=list(shard_ids))
        session.run("embed/delete_shards", shards=list(shard_ids))
        session.run("shards/delete_unregistered_checksums")


def _shard_rows(files: Sequence[tuple[str, Shard]]) -> pa.Table:
    table = pa.Table.from_pylist([_shard_row(file, shard) for file, shard in files])
    checksums = pa.array([shard.row_checksums for _, shard in files], pa.list_(pa.uint32()))
    return table.append_column("row_checksums", checksums)


def _shard_row(file: str, shard: Shard) -> Row:
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
        "file_checksum": shard.file_checksum,
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
