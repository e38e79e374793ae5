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

from clipstore.ranking.compiling import copy_values, njit
from clipstore.ranking.intrinsics import PAIRS, WORD, count_bits, keys_above, lowest_bit, products
from clipstore.ranking.quantise import float_key

Keys = NDArray[Any]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_NEAR, _HIT = 1, 2  # a fine score that can be on either side of a target, or that of a hit


class Queries(NamedTuple):
    """The queries of one side of a tile.

    Attributes:
        low, high: (L, n) keys: in layer l, the score of query i is surely above its target when its key is above
            high, and surely not when it is not above low. Layers are filled from the first; without a target in a
            layer the two are equal.
        least: (n,), a key above it can be that of a hit.
        sure: (L, n), the numbers of scores surely above each target.
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


class LineScale(NamedTuple):
    """How the bits of a line of products become keys.

    Attributes:
        magnitude: the mask of a float's bits other than the sign, see `bounds.keys`; 0 if the bits are keys.
        row_offset, column_offset, shift: a sum in int32, with both offsets and shifted to the right, is a key of int16;
            see `integers`.
    """

    magnitude: Any
    row_offset: NDArray[np.int32]
    column_offset: NDArray[np.int32]
    shift: int


class Cells(NamedTuple):
    """Room for the cells of a tile, `size` of each kind at most.

    Attributes:
        near: (2, size) int32, row and column of each cell that can be on either side of a target.
        near_keys: (size,), their keys.
        hits: (2, size) int32, row and column of each other cell that can be among the hits.
        hit_scores: (size,), their fine scores.
        counts: (2,), the numbers of cells of both kinds.
    """

    near: NDArray[np.int32]
    near_keys: Keys
    hits: NDArray[np.int32]
    hit_scores: Doubles
    counts: Ints

    @classmethod
    def empty(cls, size: int, kind: np.dtype[np.signedinteger]) -> Cells:
        """Room for `size` cells with keys of a type."""
        near, hits = np.empty((2, 2, size), dtype=np.int32)
        counts = np.zeros(2, dtype=np.int64)
        return cls(near=near, near_keys=np.empty(size, dtype=kind), hits=hits, hit_scores=np.empty(size), counts=counts)


class _Columns(NamedTuple):
    """The queries of the columns as the loops read them: padded to whole words, and what a cell needs side by side.

    There is at least one layer, maybe without a target.

    Attributes:
        low, high: (L, n) keys, as in `Queries`; least: (n,).
        decided: (L, n), the counts of fine scores.
        cell: (n, 3 + L): offset, margin, the least fine score of a hit, targets.
    """

    low: Keys
    high: Keys
    least: Keys
    decided: Keys
    cell: Doubles


class _Layers(NamedTuple):
    """The layers of a row with targets that keys of its line can be above: their numbers, and as in `Queries`, (L,)."""

    numbers: Ints
    low: Keys
    high: Keys
    targets: Doubles
    counts: Ints


class _Flagged(NamedTuple):
    """The flagged cells of a line: their columns, sums of products of int16, fine scores, keys and states."""

    places: NDArray[np.int32]
    sums: NDArray[np.int32]
    scores: Doubles
    keys: Ints
    states: Ints  # _NEAR, _HIT, or both


@njit(nogil=True, cache=True)
def screen(
    bits: NDArray[Any],
    first: int,
    scale: LineScale,
    rows: Queries,
    columns: Queries,
    unit: float,
    cells: Cells,
) -> None:  # pragma: no cover - compiled
    """Count the scores surely above each target in lines of a tile; list cells near a target and those of other hits.

    Without rows in int16 all of them are listed as near a target.

    Args:
        bits: (R, C), the bits of the products of some lines.
        first: the row of the tile that is the first of these lines.
        scale: how a line becomes keys.
        rows: the queries of the tile's rows; the counts of these lines are set.
        columns: the queries of the columns; the counts are added to.
        unit: of the products in int16.
        cells: added to.
    """
    undecided, possible, width = cells.counts[0], cells.counts[1], bits.shape[1]
    known = _known_columns(columns)
    line = np.full(len(known.least), np.iinfo(columns.low.dtype).min, dtype=columns.low.dtype)
    layers = _Layers(
        np.empty(len(rows.low), dtype=np.int64),
        np.empty(len(rows.low), dtype=line.dtype),
        np.empty(len(rows.low), dtype=line.dtype),
        np.empty(len(rows.low)),
        np.empty(len(rows.low), dtype=np.int64),
    )
    flagged = _Flagged(
        np.zeros(width + PAIRS, dtype=np.int32),
        np.empty(width + PAIRS, dtype=np.int32),
        np.empty(width),
        np.empty(width, dtype=np.int64),
        np.empty(width, dtype=np.int64),
    )
    for i in range(first, first + bits.shape[0]):
        _set_line(bits[i - first], i, scale, line)
        count_layers = _choose_layers(line, i, rows, layers)
        _count_columns(line, columns)
        count = _list_flagged(line, rows.least[i], count_layers, layers, known, flagged.places)
        for cell in range(0, count, PAIRS):
            products(rows.rows[i], columns.rows, flagged.places, cell, flagged.sums)
        _compare_with_columns(line, i, rows, known, unit, count, flagged)
        _compare_with_row(rows.margin[i], count_layers, layers, count, flagged)
        for cell in range(count):
            if flagged.states[cell] == _HIT and rows.rows.shape[1]:
                cells.hits[0, possible], cells.hits[1, possible] = i, flagged.places[cell]
                cells.hit_scores[possible] = flagged.scores[cell]
                possible += 1
            elif flagged.states[cell]:
                cells.near[0, undecided], cells.near[1, undecided] = i, flagged.places[cell]
                cells.near_keys[undecided] = flagged.keys[cell]
                undecided += 1
                _take_back(cell, known, count_layers, layers, flagged)
        for layer in range(count_layers):
            rows.sure[layers.numbers[layer], i] = layers.counts[layer]
    _add_counts(known.decided, columns.sure)
    cells.counts[0], cells.counts[1] = undecided, possible


@njit(nogil=True, cache=True)
def _add_counts(counts: Keys, total: Keys) -> None:  # pragma: no cover - compiled
    """Add the first values of each layer to those of `total` (L, n)."""
    for layer in range(total.shape[0]):
        for j in range(total.shape[1]):
            total[layer, j] += counts[layer, j]


@njit(nogil=True, cache=True)
def _known_columns(columns: Queries) -> _Columns:  # pragma: no cover - compiled
    """The columns of a tile as the loops read them."""
    given, width = columns.low.shape
    depth, length, greatest = max(given, 1), -(-width // WORD) * WORD, np.iinfo(columns.low.dtype).max
    known = _Columns(
        np.full((depth, length), greatest, dtype=columns.low.dtype),
        np.full((depth, length), greatest, dtype=columns.low.dtype),
        np.full(length, greatest, dtype=columns.low.dtype),
        np.zeros((depth, length), dtype=columns.low.dtype),
        np.full((width, 3 + depth), np.nan),
    )
    for layer in range(given):
        copy_values(known.low[layer, :width], columns.low[layer])
        copy_values(known.high[layer, :width], columns.high[layer])
        copy_values(known.cell[:, 3 + layer], columns.targets[layer])
    copy_values(known.least[:width], columns.least)
    for j in range(width):
        cell = known.cell[j]
        cell[0], cell[1], cell[2] = columns.offset[j], columns.margin[j], columns.floor[j] - columns.margin[j]
    return known


@njit(nogil=True, cache=True, inline="always")
def _set_line(bits: NDArray[Any], i: int, scale: LineScale, line: Keys) -> None:  # pragma: no cover - compiled
    """Set the keys of a line."""
    if bits.itemsize == line.itemsize:
        for j in range(len(bits)):
            line[j] = float_key(bits[j], scale.magnitude)
    else:
        offset, shift = scale.row_offset[i], scale.shift
        for j in range(len(bits)):
            line[j] = np.int16(np.int32(bits[j] + np.int32(offset + scale.column_offset[j])) >> shift)


@njit(nogil=True, cache=True, inline="always")
def _choose_layers(line: Keys, i: int, rows: Queries, layers: _Layers) -> int:  # pragma: no cover - compiled
    """Set the layers of a row with a target that a key of the line can be above; their number."""
    most, count = line[0], 0
    for j in range(len(line)):
        most = max(most, line[j])
    for layer in range(len(rows.low)):
        low, high = rows.low[layer, i], rows.high[layer, i]
        if low < min(high, most):
            layers.numbers[count], layers.low[count], layers.high[count] = layer, low, high
            layers.targets[count], layers.counts[count] = rows.targets[layer, i], 0
            count += 1
    return count


@njit(nogil=True, cache=True, inline="always")
def _count_columns(line: Keys, columns: Queries) -> None:  # pragma: no cover - compiled
    """Count the keys of a line surely above the targets of the columns."""
    for layer in range(len(columns.high)):
        high, sure = columns.high[layer], columns.sure[layer]
        for j in range(len(high)):
            sure[j] += line[j] > high[j]


@njit(nogil=True, cache=True, inline="always")
def _list_flagged(
    line: Keys, floor: Any, count_layers: int, layers: _Layers, known: _Columns, places: NDArray[np.int32]
) -> int:  # pragma: no cover - compiled
    """Set the columns of keys that prove nothing or can be hits, and count those surely above the row's targets.

    Returns:
        The number of the columns.
    """
    count = 0
    for start in range(0, len(line), WORD):
        flags = keys_above(line, start, floor) | keys_above(line, start, known.least)
        for layer in range(len(known.low)):
            flags |= keys_above(line, start, known.low[layer]) ^ keys_above(line, start, known.high[layer])
        for layer in range(count_layers):
            above = keys_above(line, start, layers.high[layer])
            layers.counts[layer] += count_bits(above)
            flags |= keys_above(line, start, layers.low[layer]) ^ above
        place = count
        count += count_bits(flags)
        while True:  # mostly one turn, so that the branch is predicted
            for n in range(PAIRS):
                places[place + n] = start + lowest_bit(flags)
                flags &= flags - np.uint64(1)
            place += PAIRS
            if place >= count:
                break
    places[count : count + PAIRS] = 0  # columns, too
    return count


@njit(nogil=True, cache=True, inline="always")
def _compare_with_columns(
    line: Keys, i: int, rows: Queries, known: _Columns, unit: float, count: int, flagged: _Flagged
) -> None:  # pragma: no cover - compiled
    """Set scores, keys and states, and count the fine scores above targets of columns that their keys do not decide.

    The first layer is not in the loop over layers: a loop of few turns takes longer.
    """
    offset, least, depth = rows.offset[i], rows.floor[i] - rows.margin[i], len(known.low)
    for cell in range(count):
        j = np.uint32(flagged.places[cell])  # an unsigned index needs no test of its sign
        key, score = line[j], flagged.sums[cell] * unit + (offset + known.cell[j, 0])
        difference = score - known.cell[j, 3]
        state = _HIT * (score >= min(least, known.cell[j, 2])) + _NEAR * (abs(difference) <= known.cell[j, 1])
        known.decided[0, j] += (key <= known.high[0, j]) & (difference > 0)
        for layer in range(1, depth):
            difference = score - known.cell[j, 3 + layer]
            state |= _NEAR * (abs(difference) <= known.cell[j, 1])
            known.decided[layer, j] += (key <= known.high[layer, j]) & (difference > 0)
        flagged.scores[cell], flagged.keys[cell], flagged.states[cell] = score, key, state


@njit(nogil=True, cache=True, inline="always")
def _compare_with_row(
    margin: float, count_layers: int, layers: _Layers, count: int, flagged: _Flagged
) -> None:  # pragma: no cover - compiled
    """Add to states, and count the fine scores above the row's targets that their keys do not decide."""
    scores, keys, states = flagged.scores, flagged.keys, flagged.states
    for layer in range(count_layers):
        target, high, above = layers.targets[layer], np.int64(layers.high[layer]), 0
        for cell in range(count):
            difference = scores[cell] - target
            states[cell] |= _NEAR * (abs(difference) <= margin)
            above += (keys[cell] <= high) & (difference > 0)
        layers.counts[layer] += above


@njit(nogil=True, cache=True, inline="always")
def _take_back(
    cell: int, known: _Columns, count_layers: int, layers: _Layers, flagged: _Flagged
) -> None:  # pragma: no cover - compiled
    """Take back the counts of a flagged cell: its fine score decides nothing."""
    j, score, key = np.uint32(flagged.places[cell]), flagged.scores[cell], flagged.keys[cell]
    for layer in range(len(known.low)):
        known.decided[layer, j] -= (key <= known.high[layer, j]) & (score > known.cell[j, 3 + layer])
    for layer in range(count_layers):
        layers.counts[layer] -= (key <= layers.high[layer]) & (score > layers.targets[layer])


@njit(nogil=True, cache=True)
def set_keys(bits: NDArray[Any], scale: LineScale, keys: Keys) -> None:  # pragma: no cover - compiled
    """Set the keys (R, C) of products; floats may become their own keys."""
    for i in range(bits.shape[0]):
        _set_line(bits[i], i, scale, keys[i])


@njit(nogil=True, cache=True)
def best_in_rows(keys: Keys, groups: int, count: int, result: Keys) -> None:  # pragma: no cover - compiled
    """Set the `count`-th greatest of the maxima of `groups` equal parts of each row: every `groups`-th key."""
    most, best = np.empty(groups, dtype=keys.dtype), np.empty((groups, keys.shape[0]), dtype=keys.dtype)
    for i in range(keys.shape[0]):
        copy_values(most, keys[i, :groups])
        for start in range(groups, keys.shape[1] - groups + 1, groups):
            part = keys[i, start : start + groups]
            for group in range(groups):
                most[group] = max(most[group], part[group])
        copy_values(best[:, i], most)
    _nth_greatest(best, count, result)


@njit(nogil=True, cache=True)
def best_in_columns(keys: Keys, groups: int, count: int, result: Keys) -> None:  # pragma: no cover - compiled
    """Set the `count`-th greatest of the maxima of `groups` equal parts of each column."""
    size, columns = keys.shape[0] // groups, keys.shape[1]
    best = np.empty((groups, columns), dtype=keys.dtype)
    for group in range(groups):
        copy_values(best[group], keys[group * size])
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
    copy_values(result, best[count - 1])
