"""One pass over a shard's file: checksums of the file, of its content and of each row, and rows that are not valid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from clipstore.files import check_regular
from clipstore.shards.description import Shard, items_json
from clipstore.shards.layout import OpenShard, open_shard, unreadable

_BLOCK_BYTES = 2**22  # read at a time
_TOLERANCE = {"float32": 5e-4, "float16": 2e-3}  # the largest difference of a row's length from 1, by stored type


@dataclass(kw_only=True)
class ShardScan:
    """What a pass over a shard found. Nothing is compared with the catalog.

    Attributes:
        shard: the description, with the checksums that were computed.
        checksum: computed as the format defines it; compare with `shard.checksum`.
        not_finite: rows with NaN or infinity.
        not_unit: rows of vectors whose length is neither 1 nor 0.
    """

    shard: Shard
    checksum: str = ""
    not_finite: list[int] = field(default_factory=list)
    not_unit: list[int] = field(default_factory=list)

    @property
    def problem(self) -> str | None:
        """Why the shard is not valid, apart from its layout: a clause, or None."""
        if self.checksum != self.shard.checksum:
            return f"its {self.shard.info.kind} do not match its checksum"
        if self.not_finite:
            return f"row {self.not_finite[0]} contains NaN or infinity"
        if self.not_unit:
            return f"row {self.not_unit[0]} is not of unit length"
        return None


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        ShardError: it is missing, not a regular file, or cannot be read.
    """
    try:
        check_regular(path)
        with path.open("rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def scan_shard(path: Path, *, file: bool = False, rows: bool = False) -> ShardScan:
    """Read a shard once, and look for rows that are not finite or not of unit length.

    `file` computes the checksum of the file too, `rows` that of each row.

    Raises:
        ShardError: the file is missing, its layout is not that of a shard, or it cannot be read.
    """
    with open_shard(path) as opened:
        scan = ShardScan(shard=opened.shard)
        whole, digest = hashlib.sha256(), hashlib.sha256()
        row_checksums: list[int] = []
        for block in _file_blocks(opened) if opened.offset is not None else _row_blocks(opened):
            if file and opened.offset is not None:
                whole.update(block.data)
            if block.rows is None:
                continue
            digest.update(block.data)
            if rows:
                row_checksums += [crc32(row) for row in block.rows]
            _check_rows(scan, block.rows, block.first)
    if file and opened.offset is None:
        with path.open("rb") as raw:
            whole = hashlib.file_digest(raw, "sha256")
    digest.update(items_json(opened.shard.contents, opened.shard.failures))
    scan.checksum = digest.hexdigest()
    scan.shard = replace(opened.shard, file_checksum=whole.hexdigest() if file else "", row_checksums=row_checksums)
    return scan


@dataclass(frozen=True)
class _Block:
    """Consecutive bytes of a file, or rows (B, D) from number `first` with their bytes."""

    data: Any
    rows: NDArray[Any] | None = None
    first: int = 0


def _file_blocks(opened: OpenShard) -> Iterator[_Block]:
    """The whole file in order, the rows in blocks of their own. A block is valid until the next one is read."""
    shard, offset = opened.shard, opened.offset or 0
    dtype = np.dtype(shard.dtype).newbyteorder("<")
    width, count = shard.dim * dtype.itemsize, len(shard.contents)
    step = max(1, _BLOCK_BYTES // max(1, width))
    buffer = np.empty(max(_BLOCK_BYTES, step * width), dtype=np.uint8)
    with opened.path.open("rb", buffering=0) as raw:
        yield from (_Block(data) for data in _bytes(raw, offset, buffer))
        for first in range(0, count, step):
            size = min(step, count - first) * width
            for data in _bytes(raw, size, buffer):
                yield _Block(data, data.view(dtype).reshape(-1, shard.dim), first)
        yield from (_Block(data) for data in _bytes(raw, shard.size - offset - count * width, buffer))


def _bytes(raw: FileIO, size: int, buffer: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The next `size` bytes of a file, as many at a time as the buffer holds."""
    while size > 0:
        part = buffer[: min(size, len(buffer))]
        done = 0
        while done < len(part):
            count = raw.readinto(part[done:].data)
            if not count:
                message = "it ends early"
                raise OSError(message)
            done += count
        yield part
        size -= len(part)


def _row_blocks(opened: OpenShard) -> Iterator[_Block]:
    """The rows in order, for layouts that are not contiguous."""
    step = max(1, _BLOCK_BYTES // max(1, opened.values.dtype.itemsize * opened.shard.dim))
    for first in range(0, len(opened.values), step):
        rows = np.ascontiguousarray(opened.values[first : first + step])
        yield _Block(rows, rows, first)


def _check_rows(scan: ShardScan, rows: NDArray[Any], first: int) -> None:
    """Note the rows of a block that are not finite, and those of vectors that are not of unit length."""
    wide = rows.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", wide, wide)
    suspicious = ~np.isfinite(squares)
    if scan.shard.info.normalised:
        suspicious |= (np.abs(squares - 1) > 2 * _TOLERANCE[scan.shard.dtype]) & (squares > 0)
    for row in np.flatnonzero(suspicious).tolist():
        if not np.isfinite(wide[row]).all():
            scan.not_finite.append(first + row)
        elif scan.shard.info.normalised:
            scan.not_unit.append(first + row)
