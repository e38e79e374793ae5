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

ROWS_AT_ONCE = 1_000_000  # rows of shards that are registered at once


def register(session: Session, shards: Iterable[Shard]) -> None:
    """Add complete shards, their rows and their failures to the catalog.

    Of shards with the same item, the first has its vector, and the last the reason of its failure. Give many shards at
    once, as an iterator that reads them: the stored vectors are read once for every million rows. DuckDB holds 80 bytes
    of each row until the transaction ends.
    """
    staged = StagedShards()
    for shard in shards:
        staged.add(shard)
        if staged.rows >= ROWS_AT_ONCE:
            register_staged(session, staged)
            staged = StagedShards()
    register_staged(session, staged)


class StagedShards:
    """Complete shards that wait for being registered, as tables, which take less memory than the lists in `Shard`."""

    def __init__(self) -> None:
        self.shards: dict[str, tuple[Row, pa.Array]] = {}  # row and row checksums, by file
        self._vectors: list[pa.Table] = []
        self._failures: list[pa.Table] = []
        self.rows = 0

    def add(self, shard: Shard) -> None:
        """Add a shard; one that was added before is ignored."""
        number, file = len(self.shards), shard_file(shard.path)
        if file not in self.shards:
            self.shards[file] = _shard_row(number, file, shard), pa.array(shard.row_checksums, pa.uint32())
            self._vectors.append(_vector_rows(number, shard))
            self._failures.append(_failure_rows(number, shard))
            self.rows += len(shard.contents) + len(shard.failures)

    def tables(self) -> dict[str, pa.Table]:
        """The tables that the statements read, by name."""
        rows, checksums = zip(*self.shards.values(), strict=True)
        offsets = np.cumsum([0, *map(len, checksums)], dtype=np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.concat_arrays(checksums))
        return {
            "staged_shards": pa.Table.from_pylist(list(rows)).append_column("row_checksums", lists),
            "staged_vectors": pa.concat_tables(self._vectors),
            "staged_failures": pa.concat_tables(self._failures),
        }


def register_staged(session: Session, staged: StagedShards) -> None:
    """Add shards to the catalog, as `register` does."""
    if not staged.shards:
        return
    session.stage(**staged.tables())
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
