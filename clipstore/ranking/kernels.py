"""The compiled loops of ranking: screen a tile, score the cells that are left, settle counts and hits.

numba compiles them at the first call and keeps the machine code on disk; they release the interpreter's lock.

A *key* is a float's bits as an integer that sorts as the float does (`bounds.keys`). Loops over a tile are free of
branches, and their sums stay as narrow as the keys: only so does the compiler make vector instructions of them.
"""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Keys = NDArray[Any]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@njit(nogil=True, cache=True)
def screen(
    product: Keys,
    sign: Any,
    magnitude: Any,
    row_low: Keys,
    row_high: Keys,
    row_floor: Keys,
    row_sure: Keys,
    column_low: Keys,
    column_high: Keys,
    column_floor: Keys,
    column_sure: Keys,
    line: Keys,
    flags: NDArray[np.uint8],
    words: NDArray[np.uint64],
    places: NDArray[np.int32],
    cells: NDArray[np.int32],
    cell_keys: Keys,
) -> int:  # pragma: no cover - compiled
    """Count what is surely above each target of a tile, and list the cells that are not sure.

    Args:
        product: (R, C), the bits of the scores; `sign` is the sign bit's place, `magnitude` the mask of the others.
        row_low, row_high: (L, R) keys: in layer l, a score of row i is surely above its target when its key is above
            row_high, and surely not when it is not above row_low. Layers are filled from the first; a row without a
            target in a layer has the two equal.
        row_floor: (R,), a key above it may belong to a hit.
        row_sure: (L, R), the counts, set.
        column_low, column_high, column_floor, column_sure: the same of the columns, (L', C) and (C,).
        line, flags, words, places: for one row, (C,) keys and bytes; `words` are the bytes of `flags`, padded to
            whole words, and `places` holds as many.
        cells, cell_keys: (2, R * C + 1) and (R * C + 1,), get row and column of each cell that is not sure, in order,
            and its key.

    Returns:
        How many cells are not sure.
    """
    rows, columns = product.shape
    found = 0
    column_sure[:] = 0
    for i in range(rows):
        floor = row_floor[i]
        for j in range(columns):
            bits = product[i, j]
            line[j] = bits ^ ((bits >> sign) & magnitude)
        for j in range(columns):
            flags[j] = (line[j] > floor) | (line[j] > column_floor[j])
        for layer in range(column_low.shape[0]):
            low_line, high_line, sure_line = column_low[layer], column_high[layer], column_sure[layer]
            for j in range(columns):
                above = line[j] > high_line[j]
                sure_line[j] += above
                flags[j] |= (line[j] > low_line[j]) ^ above
        for layer in range(row_low.shape[0]):
            row_sure[layer, i] = 0
            if row_low[layer, i] < row_high[layer, i]:
                row_sure[layer, i] = _count_line(line, row_low[layer, i], row_high[layer, i], flags)
        found = _list_flagged(i, flags, words, places, line, cells, cell_keys, found)
    return found


@njit(nogil=True, cache=True)
def _count_line(line: Keys, low: Any, high: Any, flags: NDArray[np.uint8]) -> Any:  # pragma: no cover - compiled
    """How many keys of a line are above `high`; those above `low` alone are flagged."""
    count = line.dtype.type(0)
    for j in range(line.shape[0]):
        above = line[j] > high
        count = line.dtype.type(count + line.dtype.type(above))
        flags[j] |= (line[j] > low) ^ above
    return count


@njit(nogil=True, cache=True)
def _list_flagged(
    row: int,
    flags: NDArray[np.uint8],
    words: NDArray[np.uint64],
    places: NDArray[np.int32],
    line: Keys,
    cells: NDArray[np.int32],
    cell_keys: Keys,
    found: int,
) -> int:  # pragma: no cover - compiled
    """Append the flagged cells of a row to the list, eight flags looked at together.

    Everything is written in any case, and kept if flagged: a branch would be guessed wrong too often.
    """
    some = 0
    for word in range(words.shape[0]):
        places[some] = word
        some += words[word] != 0
    for at in range(some):
        for j in range(8 * places[at], min(8 * places[at] + 8, line.shape[0])):
            cells[0, found], cells[1, found] = row, j
            cell_keys[found] = line[j]
            found += flags[j]
    return found


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def score_cells(
    left: NDArray[np.float32],
    rows: NDArray[np.int32],
    right: NDArray[np.float32],
    columns: NDArray[np.int32],
    scores: Doubles,
) -> None:  # pragma: no cover - compiled
    """The score of left[rows[cell]] and right[columns[cell]] for each cell, in float64.

    The one routine that scores anything, targets and cells alike. The products of float32 values are exact in float64.
    The compiler chooses the order in which they are summed, for the processor and once: it is the same for every pair
    of one width, so equal vectors have equal scores.
    """
    for cell in range(len(rows)):
        row, column = rows[cell], columns[cell]
        total = 0.0
        for k in range(left.shape[1]):
            total += np.float64(left[row, k]) * np.float64(right[column, k])
        scores[cell] = total


@njit(nogil=True, cache=True)
def settle(
    at: NDArray[np.int32],
    found: Keys,
    scores: Doubles,
    low: Keys,
    high: Keys,
    sure: Keys,
    layers: Ints,
    targets: Doubles,
    greater: Ints,
    equal: Ints,
) -> None:  # pragma: no cover - compiled
    """Add what a tile told to the counts of one direction.

    Args:
        at: (c,), the query of each cell that was not sure; found, scores: (c,), its key and its score.
        low, high, sure: (L, Q), as `screen` had and set them; layers: (L, Q), the pair of each target, -1: none.
        targets, greater, equal: (P,), of all pairs.
    """
    count, queries = layers.shape
    for layer in range(count):
        for query in range(queries):
            if layers[layer, query] >= 0:
                greater[layers[layer, query]] += sure[layer, query]
    cell = 0
    while cell < len(at):
        query, end = at[cell], cell + 1
        while end < len(at) and at[end] == query:  # the cells of a tile's row stand together, those of a column do not
            end += 1
        for layer in range(count):
            pair = layers[layer, query]
            if pair < 0:
                break
            above, same, target = 0, 0, targets[pair]
            least, most = low[layer, query], high[layer, query]
            for one in range(cell, end):
                near = (least < found[one]) & (found[one] <= most)
                above += near & (scores[one] > target)
                same += near & (scores[one] == target)
            greater[pair] += above
            equal[pair] += same
        cell = end


@njit(nogil=True, cache=True)
def keep_hits(
    at: NDArray[np.int32],
    ids: Ints,
    others: NDArray[np.int32],
    other_ids: Ints,
    found: Keys,
    floor: Keys,
    scores: Doubles,
    hits: Ints,
    hit_scores: Doubles,
) -> None:  # pragma: no cover - compiled
    """Put what is above the floor of its query's hits among them: the greater score first, then the smaller row number.

    Args:
        at, others: (c,), query and candidate of each cell; ids, other_ids: their row numbers among all.
        found, scores: (c,), each cell's key and score; floor: (Q,), the key that those of hits are above.
        hits, hit_scores: (N, k) of all queries.
    """
    last = hits.shape[1] - 1
    for cell in range(len(at)):
        if found[cell] > floor[at[cell]]:
            query, item, score = ids[at[cell]], other_ids[others[cell]], scores[cell]
            place = last + 1
            while place:
                before, other = hit_scores[query, place - 1], hits[query, place - 1]
                if other >= 0 and (score < before or (score == before and item > other)):
                    break
                place -= 1
                if place < last:
                    hits[query, place + 1], hit_scores[query, place + 1] = other, before
            if place <= last:
                hits[query, place], hit_scores[query, place] = item, score
