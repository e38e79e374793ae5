"""The compiled loops that screen a tile: count what its keys prove, decide most other cells in int16, list the rest.

A *key* is an integer that sorts as the approximate scores do (`bounds.keys`, `integers.IntegerKeys`). Loops over keys
have no branches, and their sums are as narrow as the keys: otherwise the compiler does not vectorize them. Functions
are inlined: to pass the arrays of `Queries` takes longer than a loop over a line.
"""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipstore.ranking.compiling import njit
from clipstore.ranking.intrinsics import FLAGS, PAIRS, lowest_bit, nonzero_bits, products
from clipstore.ranking.quantise import float_key

Keys = NDArray[Any]
Doubles = NDArray[np.float64]


class Queries(NamedTuple):
    """The queries of one side of a tile.

    Attributes:
        low, high: (L, n) keys: in layer l, the score of query i is surely above its target when its key is above
            high, and surely not when it is not above low. Layers are filled from the first; without a target in a
            layer the two are equal.
        least: (n,), a key above it can be that of a hit.
        sure: (L, n), the numbers of scores surely above each target, set.
        targets: (L, n), the targets; NaN: none.
        floor: (n,), the least score of a hit.
        margin: (n,), the bound of the error of a fine score.
        rows: (n, K) int16; their products times the unit, and `offset` (n,) of both sides, are the fine scores.
    """

    low: Keys
    high: Keys
    least: Keys
    sure: Keys
    targets: Doubles
    floor: Doubles
    margin: Doubles
    rows: NDArray[np.int16]
    offset: Doubles


class Cells(NamedTuple):
    """Room for the cells of a tile, `size` of each kind at most.

    Attributes:
        near: (2, size) int32, row and column of each cell that can be on either side of a target.
        near_keys: (size,), their keys.
        hits: (2, size) int32, row and column of each other cell that can be among the hits.
        hit_scores: (size,), their fine scores.
    """

    near: NDArray[np.int32]
    near_keys: Keys
    hits: NDArray[np.int32]
    hit_scores: Doubles

    @classmethod
    def empty(cls, size: int, kind: np.dtype[np.signedinteger]) -> Cells:
        """Room for `size` cells with keys of a type."""
        near, hits = np.empty((2, 2, size), dtype=np.int32)
        return cls(near=near, near_keys=np.empty(size, dtype=kind), hits=hits, hit_scores=np.empty(size))


@njit(nogil=True, cache=True)
def screen(
    bits: Keys, magnitude: Any, rows: Queries, columns: Queries, unit: float, cells: Cells
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Count the scores surely above each target of a tile, and list the cells near a target and those of other hits.

    Without rows in int16 all of them are listed as near a target.

    Args:
        bits: (R, C), the bits of the products.
        magnitude: the mask of a float's bits other than the sign, see `bounds.keys`; 0 if the bits are keys.
        rows: the queries of the rows.
        columns: the queries of the columns.
        unit: of the products in int16.
        cells: set.

    Returns:
        The numbers of cells near a target and of other hits.
    """
    undecided, possible, width, is_fine = 0, 0, bits.shape[1], rows.rows.shape[1] > 0
    rows.sure[:] = 0
    columns.sure[:] = 0
    line = np.empty(width, dtype=bits.dtype)
    flags = np.zeros(-(-width // FLAGS) * FLAGS, dtype=np.uint8)
    near, hit = np.empty(width, dtype=np.uint8), np.empty(width, dtype=np.uint8)
    places = np.zeros(width + PAIRS, dtype=np.int32)
    sums, scores = np.empty(len(places), dtype=np.int32), np.empty(width)
    flagged_keys = np.empty(width, dtype=bits.dtype)
    for i in range(bits.shape[0]):
        for j in range(width):
            line[j] = float_key(bits[i, j], magnitude)
        most = _flag_line(line, i, rows, columns, flags)
        count = _list_flagged(flags, places)
        for first in range(0, count, PAIRS):
            products(rows.rows[i], columns.rows, places, first, sums)
        for cell in range(count):
            j = places[cell]
            scores[cell] = sums[cell] * unit + (rows.offset[i] + columns.offset[j])
            flagged_keys[cell] = line[j]
        _find_near(i, rows, columns, most, places[:count], scores, near)
        _find_hits(i, rows, columns, places[:count], scores, hit)
        for cell in range(count):  # without a branch, which would be mispredicted often
            j, is_near, is_hit = places[cell], near[cell], hit[cell]
            if not is_fine:
                is_near |= is_hit
            cells.near[0, undecided], cells.near[1, undecided], cells.near_keys[undecided] = i, j, flagged_keys[cell]
            undecided += is_near
            cells.hits[0, possible], cells.hits[1, possible], cells.hit_scores[possible] = i, j, scores[cell]
            possible += is_hit & ~is_near
            scores[cell] = np.nan if is_near else scores[cell]
        _count_decided(i, flagged_keys, rows, columns, most, places[:count], scores)
    return undecided, possible


@njit(nogil=True, cache=True, inline="always")
def _flag_line(
    line: Keys, i: int, rows: Queries, columns: Queries, flags: NDArray[np.uint8]
) -> Any:  # pragma: no cover - compiled
    """Count the keys of a line surely above each target, and flag those that can be hits or that prove nothing.

    Returns:
        The greatest key.
    """
    floor, most = rows.least[i], line[0]
    for j in range(len(line)):
        flags[j] = (line[j] > floor) | (line[j] > columns.least[j])
        most = max(most, line[j])
    for layer in range(columns.low.shape[0]):
        low, high, sure = columns.low[layer], columns.high[layer], columns.sure[layer]
        for j in range(len(line)):
            above = line[j] > high[j]
            sure[j] += above
            flags[j] |= (line[j] > low[j]) ^ above
    for layer in range(rows.low.shape[0]):
        if _is_near(rows, layer, i, most):
            rows.sure[layer, i] += _count_line(line, rows.low[layer, i], rows.high[layer, i], flags)
    return most


@njit(nogil=True, cache=True, inline="always")
def _is_near(queries: Queries, layer: int, query: int, most: Any) -> Any:  # pragma: no cover - compiled
    """Whether a query has a target in a layer, and keys up to `most` can be above it."""
    return queries.low[layer, query] < min(queries.high[layer, query], most)


@njit(nogil=True, cache=True, inline="always")
def _count_line(line: Keys, low: Any, high: Any, flags: NDArray[np.uint8]) -> Any:  # pragma: no cover - compiled
    """The number of keys of a line above `high`; those above `low` only are flagged."""
    count = line.dtype.type(0)
    for j in range(line.shape[0]):
        above = line[j] > high
        count = line.dtype.type(count + line.dtype.type(above))
        flags[j] |= (line[j] > low) ^ above
    return count


@njit(nogil=True, cache=True, inline="always")
def _list_flagged(flags: NDArray[np.uint8], places: NDArray[np.int32]) -> int:  # pragma: no cover - compiled
    """Set the places of the flags that are set; their number."""
    count = 0
    for word in range(0, len(flags), FLAGS):
        bits = nonzero_bits(flags, word)
        while bits:
            places[count] = word + lowest_bit(bits)
            count += 1
            bits &= bits - np.uint64(1)
    return count


@njit(nogil=True, cache=True, inline="always")
def _find_near(
    i: int, rows: Queries, columns: Queries, most: Any, places: NDArray[np.int32], scores: Doubles, near: Any
) -> None:  # pragma: no cover - compiled
    """Set whether each fine score can be on either side of a target."""
    near[: len(places)] = 0
    margin = rows.margin[i]
    for layer in range(rows.low.shape[0]):
        if _is_near(rows, layer, i, most):
            target = rows.targets[layer, i]
            for cell in range(len(places)):
                near[cell] |= abs(scores[cell] - target) <= margin
    for layer in range(columns.low.shape[0]):
        for cell in range(len(places)):
            j = places[cell]
            near[cell] |= abs(scores[cell] - columns.targets[layer, j]) <= columns.margin[j]


@njit(nogil=True, cache=True, inline="always")
def _find_hits(
    i: int, rows: Queries, columns: Queries, places: NDArray[np.int32], scores: Doubles, hit: Any
) -> None:  # pragma: no cover - compiled
    """Set whether each fine score can be that of a hit."""
    least = rows.floor[i] - rows.margin[i]
    for cell in range(len(places)):
        j = places[cell]
        hit[cell] = (scores[cell] >= least) | (scores[cell] >= columns.floor[j] - columns.margin[j])


@njit(nogil=True, cache=True, inline="always")
def _count_decided(
    i: int, keys: Keys, rows: Queries, columns: Queries, most: Any, places: NDArray[np.int32], scores: Doubles
) -> None:  # pragma: no cover - compiled
    """Count the fine scores above the targets above which their keys prove nothing; those listed are NaN."""
    for layer in range(rows.low.shape[0]):
        if _is_near(rows, layer, i, most):
            high, target = rows.high[layer, i], rows.targets[layer, i]
            count = np.int32(0)
            for cell in range(len(places)):
                count += (keys[cell] <= high) & (scores[cell] > target)
            rows.sure[layer, i] += count
    for layer in range(columns.low.shape[0]):
        for cell in range(len(places)):
            j = places[cell]
            above = (keys[cell] <= columns.high[layer, j]) & (scores[cell] > columns.targets[layer, j])
            columns.sure[layer, j] += above


@njit(nogil=True, cache=True)
def narrow(
    sums: NDArray[np.int32],
    row_offset: NDArray[np.int32],
    column_offset: NDArray[np.int32],
    shift: Any,
    keys: NDArray[np.int16],
) -> None:  # pragma: no cover - compiled
    """The keys (R, C) of sums: each with both offsets, shifted to the right."""
    for i in range(sums.shape[0]):
        offset = row_offset[i]
        for j in range(sums.shape[1]):
            keys[i, j] = np.int16(np.int32(sums[i, j] + np.int32(offset + column_offset[j])) >> shift)


@njit(nogil=True, cache=True)
def sort_bits(bits: Keys, magnitude: Any) -> None:  # pragma: no cover - compiled
    """Replace the bits of floats by their keys."""
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            bits[i, j] = float_key(bits[i, j], magnitude)


@njit(nogil=True, cache=True)
def best_in_rows(keys: Keys, groups: int, count: int, result: Keys) -> None:  # pragma: no cover - compiled
    """Set the `count`-th greatest of the maxima of `groups` equal parts of each row: every `groups`-th key."""
    most, best = np.empty(groups, dtype=keys.dtype), np.empty((groups, keys.shape[0]), dtype=keys.dtype)
    for i in range(keys.shape[0]):
        most[:] = keys[i, :groups]
        for start in range(groups, keys.shape[1] - groups + 1, groups):
            part = keys[i, start : start + groups]
            for group in range(groups):
                most[group] = max(most[group], part[group])
        best[:, i] = most
    _nth_greatest(best, count, result)


@njit(nogil=True, cache=True)
def best_in_columns(keys: Keys, groups: int, count: int, result: Keys) -> None:  # pragma: no cover - compiled
    """Set the `count`-th greatest of the maxima of `groups` equal parts of each column."""
    size, columns = keys.shape[0] // groups, keys.shape[1]
    best = np.empty((groups, columns), dtype=keys.dtype)
    for group in range(groups):
        best[group] = keys[group * size]
        for i in range(group * size + 1, (group + 1) * size):
            for j in range(columns):
                best[group, j] = max(best[group, j], keys[i, j])
    _nth_greatest(best, count, result)


@njit(nogil=True, cache=True)
def _nth_greatest(best: Keys, count: int, result: Keys) -> None:  # pragma: no cover - compiled
    """Set the `count`-th greatest of each column of `best`, which is overwritten.

    Each line of `best` is merged into the sorted greatest of the lines before it, for all columns at once.
    """
    for line in range(best.shape[0]):
        for place in range(min(line, count)):
            for j in range(best.shape[1]):
                greater, less = max(best[place, j], best[line, j]), min(best[place, j], best[line, j])
                best[place, j], best[line, j] = greater, less
    result[:] = best[count - 1]
