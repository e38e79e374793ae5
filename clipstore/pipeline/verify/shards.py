"""Check registered shards: one pass over each file, by several threads, within bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Session
from clipstore.errors import ShardError
from clipstore.pipeline.verify.findings import Finding
from clipstore.progress import Progress
from clipstore.records import RegisteredShard, Row
from clipstore.shards import ShardScan, read_shard, registered_differences, scan_shard
from clipstore.store.layout import Store
from clipstore.store.orphans import new_contents
from clipstore.store.registry import registered_shard

_BATCH_ROWS = 2**16  # rows whose content keys are in memory at once
_THREADS = min(4, os.cpu_count() or 1)
_LISTED_ITEMS = 20  # of each shard


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A shard as the catalog has it: its registered rows, and the checksums of its file and rows where recorded."""

    shard_id: int
    registered: RegisteredShard
    rows: pa.Table
    file_checksum: str | None
    row_checksums: list[int]


def check_shards(store: Store, on_progress: Progress) -> Iterator[Finding]:
    """Problems of the registered shards.

    The catalog is open only between two batches of shards. Shards that were removed meanwhile are skipped.
    """
    with store.catalog.read() as session:
        listed = session.rows("verify/shards")
    total, done = sum(row["bytes"] for row in listed) // 2**20, 0
    with ThreadPoolExecutor(_THREADS, "clipstore-verify") as pool:
        for batch in _batches(listed):
            with store.catalog.read() as session:
                entries = _entries(session, store, batch)
            for row, entry, result in zip(batch, entries, pool.map(_check, entries), strict=True):
                finding = result
                done += row["bytes"]
                on_progress("shards verified (MB)", min(total, done // 2**20), total)
                if finding is None and entry.rows.num_rows < entry.registered.items:
                    finding = _unregistered_rows(store, entry)
                if finding and (finding.kind != "missing" or _is_registered(store, entry)):
                    yield finding


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


def _entries(session: Session, store: Store, batch: list[Row]) -> list[_Entry]:
    shard_ids = [row["shard_id"] for row in batch]
    rows = session.table("verify/rows", shards=shard_ids)
    checksums = {row["shard_id"]: row for row in session.rows("verify/checksums", shards=shard_ids)}
    return [
        _Entry(
            shard_id=row["shard_id"],
            registered=registered_shard(store, row),
            rows=rows.filter(pc.equal(rows["shard_id"], row["shard_id"])),
            file_checksum=checksums.get(row["shard_id"], {}).get("file_checksum"),
            row_checksums=checksums.get(row["shard_id"], {}).get("row_checksums") or [],
        )
        for row in batch
    ]


def _check(entry: _Entry) -> Finding | None:
    """The problem of one shard, or None."""
    path = entry.registered.path
    if not path.is_file():
        return _finding(entry, "missing", "the file does not exist")
    try:
        scan = scan_shard(path, content=entry.file_checksum is None, file=True)
        unchanged = scan.shard.file_checksum == entry.file_checksum
        if not unchanged and entry.file_checksum is not None:
            scan = scan_shard(path, file=True, rows=True)
        differences = registered_differences(scan.shard.registered(), entry.registered)
        finding = _damage(entry, scan, differences, unchanged=unchanged) or _other_ids(entry, scan)
    except ShardError as error:
        reason = str(error).replace(str(path), "").split("; '")[0].removeprefix("the shard  is ").strip()
        return _finding(entry, "damaged", reason.removeprefix("cannot read the shard  "))
    if finding:
        finding.failures = list(scan.shard.failures)
    return finding


def _damage(entry: _Entry, scan: ShardScan, differences: list[str], *, unchanged: bool) -> Finding | None:
    """How a file differs from what was registered, or which of its rows are not valid."""
    if differences:
        problem = "the file is not the one that was registered: " + ", ".join(differences)
        return _finding(entry, "damaged", problem, rows=_changed_rows(entry, scan))
    if not unchanged and scan.checksum != scan.shard.checksum:
        return _changed_content(entry, scan)
    if not unchanged and entry.file_checksum is not None:
        return _finding(entry, "damaged", "bytes outside of the rows have changed", rows=[])
    rows = sorted({*scan.not_finite, *scan.not_unit})
    problem = "rows contain NaN or infinity" if scan.not_finite else "rows are not of unit length"
    return _finding(entry, "damaged", problem, rows=rows) if rows else None


def _changed_content(entry: _Entry, scan: ShardScan) -> Finding:
    """Which rows, or content keys of rows, of a file do not match its checksum."""
    changed, ids = _changed_rows(entry, scan), _rows_with_other_ids(entry, scan)
    if changed:
        return _finding(entry, "damaged", "the bytes of rows have changed", rows=changed)
    if ids:
        return _finding(entry, "damaged", "the content keys of rows have changed", rows=ids)
    suspicious = sorted({*scan.not_finite, *scan.not_unit}) or changed
    problem = "the rows or the failed items do not match the checksum"
    return _finding(entry, "damaged", problem, rows=suspicious)


def _changed_rows(entry: _Entry, scan: ShardScan) -> list[int] | None:
    """The rows whose bytes have changed; None: no checksums of rows were recorded, or the rows are not comparable."""
    now = scan.shard.row_checksums
    if not entry.row_checksums or len(now) != len(entry.row_checksums):
        return None
    return np.flatnonzero(np.array(now) != np.array(entry.row_checksums)).tolist()


def _rows_with_other_ids(entry: _Entry, scan: ShardScan) -> list[int]:
    """The registered rows whose content key in the file is another one, or that the file does not have."""
    rows, contents = entry.rows["row"].to_numpy(), pa.array(scan.shard.contents, pa.string())
    inside = (rows >= 0) & (rows < len(contents))
    stored = contents.take(pa.array(np.where(inside, rows, 0))) if len(contents) else None
    equal = (
        pc.equal(stored, entry.rows["content"].combine_chunks()).to_numpy(zero_copy_only=False) if stored else inside
    )
    return sorted(rows[~(inside & equal)].tolist())


def _other_ids(entry: _Entry, scan: ShardScan) -> Finding | None:
    rows = _rows_with_other_ids(entry, scan)
    if rows:
        return _finding(entry, "ids", "the catalog has other content keys for rows of the file", rows=rows)
    return None


def _unregistered_rows(store: Store, entry: _Entry) -> Finding | None:
    """Rows of a shard that the catalog lacks: of items without a vector elsewhere. Imports replace the others."""
    with store.catalog.read() as session:
        count = new_contents(session, read_shard(entry.registered.path))
    return _finding(entry, "ids", f"{count} of its items are not registered", rows=[]) if count else None


def _finding(entry: _Entry, kind: str, problem: str, rows: list[int] | None = None) -> Finding:
    return Finding(
        kind=kind,
        path=entry.registered.path,
        problem=problem,
        rows=rows,
        shard_id=entry.shard_id,
        fingerprint=entry.registered.fingerprint,
    )
