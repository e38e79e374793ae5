"""Read rows block by block and check them; plan the sizes of the blocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking import kernels
from clipstore.ranking.aligned import empty_rows
from clipstore.ranking.bounds import EXTRA
from clipstore.ranking.integers import padded

Ints = NDArray[np.int64]
Span = TypeVar("Span")
Loaded = TypeVar("Loaded")

_LONGEST = 1e18  # lengths whose products stay finite in float32
_ROWS = 2048  # rows read and checked at once
_TEXT_BLOCK = 8192  # larger blocks are not faster, and delay the end
_CPU_TILE, _CUDA_TILE = (2048, 1024), (4096, 8192)
_DEVICE_THREADS = 2
_MIN_TILE = 64  # rows and columns of the smallest tile
POSSIBLE_SHARE = 64  # one of so many cells of a tile of images and a block of texts can be in memory as possible hits
_FIXED = 2**24  # bytes of the product's library and of small arrays, for all sizes


class VectorRows(Protocol):
    """Rows (N, D) of float16 or float32 that slice like an array: numpy arrays, and vectors read from shards."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of float16 or float32."""
        ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


class BadRowError(VectorError):
    """A vector that cannot be ranked: `side` is "image" or "text", `row` its number."""

    def __init__(self, side: str, row: int) -> None:
        super().__init__(f"{side} vector {row} contains NaN, infinity or values above 1e18: embed or import it again")
        self.side, self.row = side, row

    def __reduce__(self) -> tuple[type[BadRowError], tuple[str, int]]:
        return BadRowError, (self.side, self.row)


class Side:
    """The vectors of one side, read as float32 and checked."""

    def __init__(self, rows: VectorRows, name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return self._rows.shape[0]

    @property
    def width(self) -> int:
        """D."""
        return self._rows.shape[1]

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` (n, D); float16 becomes float32 exactly.

        Raises:
            BadRowError: a row cannot be ranked.
        """
        values = empty_rows(stop - start, self.width, np.float32)
        for low in range(start, stop, _ROWS):
            high = min(low + _ROWS, stop)
            part = values[low - start : high - start]
            rows = np.array(self._rows[low:high], order="C")  # a copy: torch takes no negative strides
            torch.from_numpy(part).copy_(torch.from_numpy(rows))  # numpy takes ten times as long to widen float16
            bad = kernels.first_longer(part, _LONGEST)
            if bad >= 0:
                raise BadRowError(self._name, low + bad)
        return values


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The rows of an image block and of a text block, and the rows and columns of a tile."""

    images: int
    texts: int
    tile: tuple[int, int]

    @classmethod
    def plan(  # noqa: PLR0913
        cls,
        *,
        images: int,
        texts: int,
        pairs: Ints,
        width: int,
        precision: torch.dtype,
        device: str,
        result: int,
        memory: int,
    ) -> Layout:
        """The blocks for `memory` bytes, of the host and of the device each; the result takes `result` bytes.

        Four text blocks are in memory at once (one is read, two are screened, the hits of one are inserted), with the
        possible hits of two; the image block takes the rest.

        Raises:
            VectorError: the smallest blocks do not fit.
        """
        on_cpu = torch.device(device).type == "cpu"
        # A row in float32, and prepared; for a device again in page-locked memory. Terms, targets and their bands.
        copies = 1 if on_cpu else 2
        prepared = (width + EXTRA) * precision.itemsize + 2 * padded(width)
        row = copies * width * 4 + copies * prepared + 256
        threads = screen_threads(device)
        tile = _CPU_TILE if on_cpu else _CUDA_TILE
        block = _TEXT_BLOCK
        # Every cell of a tile, in the worst case: row, column, key and score, as rows of the blocks again, and on a CPU
        # both those near a target and possible hits, with bounds of scores.
        cell = 128 if on_cpu else 64
        counts = [np.sort(np.bincount(queries))[::-1] if len(queries) else np.zeros(1, np.int64) for queries in pairs.T]
        while True:
            scratch = tile[0] * tile[1] * (2 * max(precision.itemsize, 4) + cell) * threads
            layers = _layers(counts[0], tile[0], images, threads) + _layers(counts[1], tile[1], 4 * block, threads)
            rest = memory - _FIXED - result - scratch - layers - 4 * min(block, max(texts, 1)) * row
            image = row + 2 * block // POSSIBLE_SHARE * 16  # with row, column and score of possible hits
            if rest >= min(max(images, 1), 8 * tile[0]) * image:
                return cls(images=max(1, min(images, rest // image)), texts=block, tile=tile)
            if tile[1] <= _MIN_TILE:
                need = memory - rest + min(max(images, 1), 8 * tile[0]) * image
                message = f"{memory} bytes of memory are too few to rank vectors of width {width}: use at least {need}"
                raise VectorError(message)
            if tile[0] > tile[1]:
                tile = (tile[1], tile[1])
            else:
                block = max(block // 2, _MIN_TILE)
                tile = (max(min(tile[0], block), _MIN_TILE), max(min(tile[1], block), _MIN_TILE))


def _layers(counts: Ints, tile: int, rows: int, threads: int) -> int:
    """The bytes of the layers of pairs of some rows, at most: those of a tile are as many as the most pairs of a row.

    `counts` are the pairs of the rows, descending. A thread holds the bands of a tile.
    """
    return 40 * tile * (int(counts[: -(-rows // tile) + 1].sum()) + threads * int(counts[0]))


def screen_threads(device: str) -> int:
    """The threads that screen tiles: with a GPU, one counts on the host while it computes for another."""
    threads = torch.get_num_threads()
    return threads if torch.device(device).type == "cpu" else min(threads, _DEVICE_THREADS)


def spans(within: range, rows: int, first: int | None = None) -> list[tuple[int, int]]:
    """(start, stop) of all rows `within`, at most `rows` at a time; with `first`, that many, doubling each time."""
    result, start, size = [], within.start, min(first or rows, rows)
    while start < within.stop:
        result.append((start, min(start + size, within.stop)))
        start, size = start + size, min(2 * size, rows)
    return result


def prefetch(load: Callable[[Span], Loaded], spans: Iterable[Span], threads: int = 1) -> Iterator[Loaded]:
    """The result of `load` for each span; the next ones are loaded by threads, one each, while the last is in use."""
    # Each computes with one thread: a second team of torch's threads would busy-wait on the cores that multiply.
    with ThreadPoolExecutor(threads, "clipstore-read", torch.set_num_threads, (1,)) as pool:
        rest = iter(spans)
        loading = deque(pool.submit(load, span) for span in islice(rest, threads))
        while loading:
            loaded = loading.popleft().result()
            loading.extend(pool.submit(load, span) for span in islice(rest, 1))
            yield loaded
