"""Check registered shards: one pass over each file, by several threads, within bounded memory.

A file with the registered checksum has the bytes that were checked when it was registered. Only its description and its
content keys are compared with the catalog. Any other file is read again, to say what is wrong with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.pipeline.verify.findings import Finding
from clipstore.progress import Progress
from clipstore.records import RegisteredShard, Row
from clipstore.shards import ShardScan, Storage, read_shard, registered_differences, scan_shard, unchanged_keys
from clipstore.store.layout import Store
from clipstore.store.orphans import new_contents
from clipstore.store.registry import registered_shard
from clipstore.store.storage import shard_storage

_BATCH_ROWS = 2**16  # rows whose content keys are read from the catalog at once; those of two batches are in memory
_THREADS = min(4, os.cpu_count() or 1)
_LISTED_ITEMS = 20  # of each shard


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A shard as the catalog has it, with its registered rows: `row` and `content`."""

    shard_id: int
    file: str
    registered: RegisteredShard
    bytes: int
    rows: pa.Table


def check_shards(store: Store, on_progress: Progress) -> Iterator[Finding]:
    """Problems of the registered shards.

    The catalog is open only between two batches of shards. Shards that were removed meanwhile are skipped.
    """
    storage = shard_storage(store)
    with store.catalog.read() as session:
        listed = session.rows("verify/shards")
    total, done = sum(row["bytes"] for row in listed) // 2**20, 0
    for entry, result in _results(store, storage, listed):
        finding = result
        done += entry.bytes
        on_progress("shards verified (MB)", min(total, done // 2**20), total)
        if finding is None and entry.rows.num_rows < entry.registered.items:
            finding = _unregistered_rows(store, storage, entry)
        if finding and (finding.kind != "missing" or _is_registered(store, entry)):
            yield finding


def _results(store: Store, storage: Storage, listed: list[Row]) -> Iterator[tuple[_Entry, Finding | None]]:
    """The problem of each shard, in order. While a batch is checked, the rows of the next one are read."""
    pool = ThreadPoolExecutor(_THREADS, "clipstore-verify")
    try:
        previous: Iterable[tuple[_Entry, Finding | None]] = ()
        for batch in _batches(listed):
            with store.catalog.read() as session:
                entries = _entries(session, storage, batch)
            missing = storage.missing(entry.file for entry in entries)
            following = zip(entries, pool.map(partial(_check, store, storage, missing), entries), strict=True)
            yield from previous
            previous = following
        yield from previous
    finally:
        pool.shutdown(cancel_futures=True)


def add_items(store: Store, findings: list[Finding]) -> None:
    """Add the items of the rows that findings name."""
    with store.catalog.read() as session:
        for finding in findings:
            if finding.shard_id is not None:
                finding.items = session.rows(
                    "verify/items", shard_id=finding.shard_id, rows=finding.rows, limit=_LISTED_ITEMS
                )


def _is_registered(store: Store, entry: _Entry) -> bool:
    """Whether a shard is still registered: another process can have removed it since it was listed."""
    with store.catalog.read() as session:
        return any(row["shard_id"] == entry.shard_id for row in session.rows("verify/shards"))


def _batches(listed: list[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in listed:
        if batch and sum(other["items"] for other in batch) + row["items"] > _BATCH_ROWS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _entries(session: Session, storage: Storage, batch: list[Row]) -> list[_Entry]:
    shard_ids = [row["shard_id"] for row in batch]
    table = session.table("verify/rows", shards=shard_ids)
    numbers = table["shard_id"].to_numpy()
    if (np.diff(numbers) < 0).any():  # rows that were added later
        order = np.argsort(numbers, kind="stable")
        table, numbers = table.take(pa.array(order)), numbers[order]
    first, last = (np.searchsorted(numbers, shard_ids, side).tolist() for side in ("left", "right"))
    return [
        _Entry(
            shard_id=row["shard_id"],
            file=row["file"],
            registered=registered_shard(storage, row),
            bytes=row["bytes"],
            rows=table.slice(start, end - start),
        )
        for row, start, end in zip(batch, first, last, strict=True)
    ]


def _check(store: Store, storage: Storage, missing: set[str], entry: _Entry) -> Finding | None:
    """The problem of one shard, or None. The bytes that are stored now are checked, not those of a cache."""
    if entry.file in missing:
        return _finding(entry, "missing", "the file does not exist")
    try:
        with storage.original(entry.file) as path:
            stored = replace(entry, registered=replace(entry.registered, path=path, url=None))
            keys = unchanged_keys(stored.registered)
            if keys is not None and _has_keys(entry.rows, keys):
                return None
            finding = _scan_damage(store, stored)
    except ShardError as error:
        place = storage.location(entry.file)
        reason = str(error).replace(place, "").split("; '")[0].removeprefix("the shard  is ").strip()
        return _finding(entry, "damaged", reason.removeprefix("cannot read the shard  "))
    if finding:
        finding.path = storage.location(entry.file)
    return finding


def _scan_damage(store: Store, entry: _Entry) -> Finding | None:
    """What is wrong with a file that is not known to be the registered one, or whose keys are not those registered."""
    scan = scan_shard(entry.registered.path, file=True, rows=True)
    changed = _changed_rows(store, entry, scan)
    finding = _damage(entry, scan, changed) or _other_ids(entry, scan)
    if finding:
        finding.failures = list(scan.shard.failures)
    return finding


def _damage(entry: _Entry, scan: ShardScan, changed: list[int] | None) -> Finding | None:
    """How a file differs from what was registered, or which of its rows are not valid."""
    differences = registered_differences(scan.shard.registered(), entry.registered)
    if differences:
        problem = "the file is not the one that was registered: " + ", ".join(differences)
        return _finding(entry, "damaged", problem, rows=changed)
    if scan.checksum != scan.shard.checksum:
        return _changed_content(entry, scan, changed)
    if entry.registered.file_checksum not in (None, scan.shard.file_checksum):
        return _finding(entry, "damaged", "bytes outside of the rows have changed", rows=[])
    rows = sorted({*scan.not_finite, *scan.not_unit})
    problem = "rows contain NaN or infinity" if scan.not_finite else "rows are not of unit length"
    return _finding(entry, "damaged", problem, rows=rows) if rows else None


def _changed_content(entry: _Entry, scan: ShardScan, changed: list[int] | None) -> Finding:
    """Which rows, or content keys of rows, of a file do not match its checksum."""
    ids = _rows_with_other_keys(entry, pa.array(scan.shard.contents, pa.string()))
    if changed:
        return _finding(entry, "damaged", "the bytes of rows have changed", rows=changed)
    if ids:
        return _finding(entry, "damaged", "the content keys of rows have changed", rows=ids)
    suspicious = sorted({*scan.not_finite, *scan.not_unit}) or changed
    problem = "the rows or the failed items do not match the checksum"
    return _finding(entry, "damaged", problem, rows=suspicious)


def _changed_rows(store: Store, entry: _Entry, scan: ShardScan) -> list[int] | None:
    """The rows whose bytes have changed; None: no checksums of rows were recorded, or the rows are not comparable."""
    with store.catalog.read() as session:
        recorded = [row["row_checksums"] for row in session.rows("verify/row_checksums", shard_id=entry.shard_id)]
    now = scan.shard.row_checksums
    if not recorded or not recorded[0] or len(now) != len(recorded[0]):
        return None
    return np.flatnonzero(np.array(now) != np.array(recorded[0])).tolist()


def _rows_with_other_keys(entry: _Entry, contents: pa.Array) -> list[int]:
    """The registered rows whose content key in the file (N,) is another one, or that the file does not have."""
    rows = entry.rows["row"].to_numpy()
    inside = (rows >= 0) & (rows < len(contents))
    stored = contents.take(pa.array(np.where(inside, rows, 0))) if len(contents) else None
    equal = (
        pc.equal(stored, entry.rows["content"].combine_chunks()).to_numpy(zero_copy_only=False) if stored else inside
    )
    return sorted(rows[~(inside & equal)].tolist())


def _has_keys(registered: pa.Table, keys: NDArray[np.bytes_]) -> bool:
    """Whether the registered rows of a shard have these content keys (N,). The bytes are compared in place."""
    rows = registered["row"].to_numpy()
    if len(rows) and (rows.min() < 0 or rows.max() >= len(keys)):
        return False
    width, start = keys.dtype.itemsize, 0
    for chunk in registered["content"].chunks:
        if not len(chunk):
            continue
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if not (np.diff(ends) == width).all():
            return False
        contents = np.frombuffer(data, keys.dtype, len(chunk), int(ends[0]))
        if not np.array_equal(contents, keys[rows[start : start + len(chunk)]]):
            return False
        start += len(chunk)
    return True


def _other_ids(entry: _Entry, scan: ShardScan) -> Finding | None:
    rows = _rows_with_other_keys(entry, pa.array(scan.shard.contents, pa.string()))
    if rows:
        return _finding(entry, "ids", "the catalog has other content keys for rows of the file", rows=rows)
    return None


def _unregistered_rows(store: Store, storage: Storage, entry: _Entry) -> Finding | None:
    """Rows of a shard that the catalog lacks: of items without a vector elsewhere. Imports replace the others."""
    with storage.original(entry.file) as path, store.catalog.read() as session:
        count = new_contents(session, read_shard(path))
    return _finding(entry, "ids", f"{count} of its items are not registered", rows=[]) if count else None


def _finding(entry: _Entry, kind: str, problem: str, rows: list[int] | None = None) -> Finding:
    return Finding(
        kind=kind,
        path=entry.registered.url or entry.registered.path,
        file=None if kind == "missing" else entry.file,
        problem=problem,
        rows=rows,
        shard_id=entry.shard_id,
        fingerprint=entry.registered.fingerprint,
    )
