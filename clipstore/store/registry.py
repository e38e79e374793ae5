"""Register shards in the catalog, read rows of registered ones, and delete those whose files are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.records import RegisteredShard, Row
from clipstore.shards import Shard, gather
from clipstore.store.layout import Store

_ROWS_AT_ONCE = 1_000_000  # rows of shards that are registered at once


def register(session: Session, store: Store, shards: Iterable[Shard]) -> None:
    """Add complete shards, their rows and their failures to the catalog.

    Of shards with the same item, the first has its vector, and the last the reason of its failure. Give many shards at
    once, as an iterator if they do not fit in memory: the stored vectors are read once for every million rows.
    """
    for part in _parts(shards):
        _register_part(session, store, part)


def _parts(shards: Iterable[Shard]) -> Iterator[list[Shard]]:
    """The shards in lists with about _ROWS_AT_ONCE rows."""
    part: list[Shard] = []
    for shard in shards:
        part.append(shard)
        if sum(len(other.contents) for other in part) >= _ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def _register_part(session: Session, store: Store, shards: Sequence[Shard]) -> None:
    files = {str(shard.path.relative_to(store.root)): shard for shard in shards}
    numbered = list(enumerate(files.values()))
    session.stage(
        staged_shards=_shard_rows(files),
        staged_vectors=pa.concat_tables([_vector_rows(number, shard) for number, shard in numbered]),
        staged_failures=pa.concat_tables([_failure_rows(number, shard) for number, shard in numbered]),
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
    rows = session.rows("shards/registered", files=list(files))
    return {row["file"]: registered_shard(store, row) for row in rows}


def gather_rows(registered: Mapping[str, RegisteredShard], table: pa.Table) -> NDArray[Any]:
    """The stored row that each row of `table` names by `file` and `row`, in its order: (N, D), see `shards.gather`.

    The shards were read from the catalog before (`registered_shards`), so that it is not open while files are read.

    Raises:
        ShardError: a file is missing, cannot be read, is damaged, or is not the one that was registered.
    """
    files = table["file"].combine_chunks().dictionary_encode()
    which, rows = (column.to_numpy(zero_copy_only=False).astype(np.int64) for column in (files.indices, table["row"]))
    return gather([registered[file] for file in files.dictionary.to_pylist()], which, rows)


def registered_shard(store: Store, row: Row) -> RegisteredShard:
    """A row of the table of shards as a record."""
    names = ("kind", "tower", "fingerprint", "items", "dim", "dtype", "checksum", "file_checksum")
    return RegisteredShard(path=store.root / row["file"], **{name: row[name] for name in names})


def missing_shards(session: Session, store: Store, fingerprint: str) -> list[int]:
    """The ids of the registered shards of a fingerprint whose files are missing."""
    rows = session.rows("embed/shard_files", fingerprint=fingerprint)
    return [row["shard_id"] for row in rows if not (store.root / row["file"]).is_file()]


def delete_missing_shards(session: Session, store: Store, fingerprint: str) -> None:
    """Delete the shards of a fingerprint whose files are missing, and their vectors, from the catalog."""
    delete_shards(session, missing_shards(session, store, fingerprint))


def delete_shards(session: Session, shard_ids: Sequence[int]) -> None:
    """Delete shards, their vectors and their checksums from the catalog; the files stay."""
    if shard_ids:
        session.run("embed/delete_vectors", shards=list(shard_ids))
        session.run("embed/delete_shards", shards=list(shard_ids))
        session.run("shards/delete_unregistered_checksums")


def _shard_rows(files: Mapping[str, Shard]) -> pa.Table:
    table = pa.Table.from_pylist([_shard_row(number, *file) for number, file in enumerate(files.items())])
    checksums = pa.array([shard.row_checksums for shard in files.values()], pa.list_(pa.uint32()))
    return table.append_column("row_checksums", checksums)


def _shard_row(number: int, file: str, shard: Shard) -> Row:
    return {
        "number": number,
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


def _vector_rows(number: int, shard: Shard) -> pa.Table:
    size = len(shard.contents)
    return pa.table(
        {
            "number": pa.repeat(pa.scalar(number, pa.int32()), size),
            "content": pa.array(shard.contents, pa.string()),
            "row": pa.array(np.arange(size, dtype=np.int32)),
        }
    )


def _failure_rows(number: int, shard: Shard) -> pa.Table:
    size = len(shard.failures)
    return pa.table(
        {
            "number": pa.repeat(pa.scalar(number, pa.int32()), size),
            "content": pa.array(shard.failures.keys(), pa.string()),
            "reason": pa.array(shard.failures.values(), pa.string()),
        }
    )
