"""The tables of a source that is read in blocks. Of each item a hash is in memory, and of images the id and name too.

What a source may not have, such as an id that occurs twice, raises `UnusualFileError`: the source is then read as a
whole, which names the fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.datasets import tables
from clipstore.datasets.json_stream import UnusualFileError
from clipstore.spool import BATCH_ROWS, Table, TableBuilder

Ints = NDArray[np.int64]

IN_MEMORY = 32 * 2**20  # bytes of the largest file that is read as a whole


def is_large(file: Path) -> bool:
    """Whether a file is read in blocks."""
    try:
        return file.stat().st_size > IN_MEMORY
    except OSError:
        return False


class ImageIndex:
    """The images of a source: their ids and names, and the row of an image by its id."""

    def __init__(self) -> None:
        self._ids: list[pa.Array] = []
        self._names: list[pa.Array] = []
        self._hashes: list[Ints] = []
        self.count = 0

    def add(self, ids: Sequence[str], names: Sequence[str]) -> None:
        """Add images."""
        self._ids.append(pa.array(ids, pa.large_string()))
        self._names.append(pa.array(names, pa.large_string()))
        self._hashes.append(hashes(ids))
        self.count += len(ids)

    def complete(self) -> None:
        """Call it after the last `add`. Refuses a repeated id, and a source without images."""
        if not self._ids:
            raise UnusualFileError
        self.ids, self.names = pa.concat_arrays(self._ids), pa.concat_arrays(self._names)
        values = np.concatenate(self._hashes)
        self._order = np.argsort(values)
        self._sorted = values[self._order]
        _check_distinct(self._sorted)
        self._ids, self._names, self._hashes = [], [], []

    def rows(self, ids: Sequence[str]) -> Ints:
        """The rows (N,) of images by their ids. Refuses an unknown id."""
        places = np.searchsorted(self._sorted, hashes(ids)).clip(max=self.count - 1)
        rows: Ints = self._order[places]
        if not pc.all(pc.equal(self.ids.take(pa.array(rows)), pa.array(ids, pa.large_string())), min_count=0).as_py():
            raise UnusualFileError
        return rows


class CaptionRows:
    """The captions of a source, in its order."""

    def __init__(self, images: int) -> None:
        self._table = TableBuilder(tables.CAPTIONS)
        self._hashes: list[Ints] = []
        self._counts = np.zeros(images, np.int32)  # captions of each image so far

    def add(self, rows: Ints, names: pa.Array, source_ids: Sequence[str], texts: Sequence[str]) -> None:
        """Add captions, with the rows and names of their images."""
        self._hashes.append(hashes(source_ids))
        self._table.add(names, source_ids, texts, self.positions(rows))

    def positions(self, rows: Ints) -> NDArray[np.int32]:
        """The positions (N,) of the next captions within their images."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
        lengths = np.diff(firsts, append=len(ordered))
        positions = np.empty(len(rows), np.int32)
        positions[order] = np.arange(len(rows)) - np.repeat(firsts, lengths) + self._counts[ordered]
        self._counts[ordered[firsts]] += lengths.astype(np.int32)
        return positions

    def finish(self) -> Table:
        """The table. Refuses a repeated id."""
        check_distinct(self._hashes)
        return self._table.finish()


def splits(split: str, names: pa.Array) -> Table:
    """The table of one split with all images."""
    table = TableBuilder(tables.SPLITS)
    for start, part in slices(names):
        table.add(pa.repeat(split, len(part)), part, np.arange(start, start + len(part), dtype=np.int32))
    return table.finish()


def slices(array: pa.Array) -> Iterator[tuple[int, pa.Array]]:
    """Start and values of each part of an array."""
    for start in range(0, len(array), BATCH_ROWS):
        yield start, array.slice(start, BATCH_ROWS)


def hashes(values: Sequence[str]) -> Ints:
    """64-bit hashes (N,) of texts."""
    return np.fromiter(map(hash, values), np.int64, len(values))


def check_distinct(parts: Sequence[Ints]) -> None:
    """Refuse equal hashes."""
    if parts:
        _check_distinct(np.sort(np.concatenate(parts)))


def _check_distinct(ordered: Ints) -> None:
    if (ordered[1:] == ordered[:-1]).any():
        raise UnusualFileError
