"""The compiled loops of ranking: screen a tile, score the undecided cells, accumulate counts and hits.

numba compiles them at the first call and caches the machine code on disk; they release the interpreter's lock.

A *key* is a float's bits as an integer that sorts as the float does (`bounds.keys`). Loops over a tile have no
branches, and their sums are as narrow as the keys: otherwise the compiler does not vectorize them.
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
    """Count the scores surely above each target of a tile, and list the undecided cells.

    Args:
        product: (R, C), the bits of the scores; `sign` is the sign bit's place, `magnitude` the mask of the others.
        row_low, row_high: (L, R) keys: in layer l, a score of row i is surely above its target when its key is above
            row_high, and surely not when it is not above row_low. Layers are filled from the first; for a row without a
            target in a layer the two are equal.
        row_floor: (R,), a key above it can be that of a hit.
        row_sure: (L, R), the counts, set.
        column_low, column_high, column_floor, column_sure: the same of the columns, (L', C) and (C,).
        line, flags, words, places: for one row, (C,) keys and bytes; `words` are the bytes of `flags`, padded to
            whole words, and `places` holds as many.
        cells, cell_keys: (2, R * C + 1) and (R * C + 1,), set to row and column of each undecided cell, in order, and
            to its key.

    Returns:
        The number of undecided cells.
    """
    rows, columns = product.shape
    undecided = 0
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
        undecided = _list_flagged(i, flags, words, places, line, cells, cell_keys, undecided)
    return undecided


@njit(nogil=True, cache=True)
def _count_line(line: Keys, low: Any, high: Any, flags: NDArray[np.uint8]) -> Any:  # pragma: no cover - compiled
    """The number of keys of a line above `high`; those above `low` only are flagged."""
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
    size: int,
) -> int:  # pragma: no cover - compiled
    """Append the flagged cells of a row to the list of `size` cells, testing eight flags at a time; the new size.

    Every cell is written, and the size grows if it is flagged: a branch would be mispredicted too often.
    """
    nonzero = 0
    for word in range(words.shape[0]):
        places[nonzero] = word
        nonzero += words[word] != 0
    for place in range(nonzero):
        for j in range(8 * places[place], min(8 * places[place] + 8, line.shape[0])):
            cells[0, size], cells[1, size] = row, j
            cell_keys[size] = line[j]
            size += flags[j]
    return size


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def score_cells(
    left: NDArray[np.float32],
    rows: NDArray[np.int32],
    right: NDArray[np.float32],
    columns: NDArray[np.int32],
    scores: Doubles,
) -> None:  # pragma: no cover - compiled
    """The score of left[rows[cell]] and right[columns[cell]] for each cell, in float64.

    Every score, of targets and of cells, is computed here. The products of float32 values are exact in float64. The
    compiler chooses the order of the sum once, for the processor: it is the same for every pair of one width, so equal
    vectors have equal scores.
    """
    for cell in range(len(rows)):
        row, column = rows[cell], columns[cell]
        total = 0.0
        for k in range(left.shape[1]):
            total += np.float64(left[row, k]) * np.float64(right[column, k])
        scores[cell] = total


@njit(nogil=True, cache=True)
def accumulate_counts(
    query_of: NDArray[np.int32],
    cell_keys: Keys,
    scores: Doubles,
    low: Keys,
    high: Keys,
    sure: Keys,
    layers: Ints,
    targets: Doubles,
    greater: Ints,
    equal: Ints,
) -> None:  # pragma: no cover - compiled
    """Add the counts of one screened tile to those of one direction.

    Args:
        query_of: (c,), the query of each undecided cell; cell_keys, scores: (c,), its key and its score.
        low, high, sure: (L, Q), inputs and result of `screen`; layers: (L, Q), the pair of each target, -1: none.
        targets, greater, equal: (P,), of all pairs.
    """
    count, queries = layers.shape
    for layer in range(count):
        for query in range(queries):
            if layers[layer, query] >= 0:
                greater[layers[layer, query]] += sure[layer, query]
    cell = 0
    while cell < len(query_of):
        query, end = query_of[cell], cell + 1
        while end < len(query_of) and query_of[end] == query:  # the cells of a row are adjacent
            end += 1
        for layer in range(count):
            pair = layers[layer, query]
            if pair < 0:
                break
            above, same, target = 0, 0, targets[pair]
            least, most = low[layer, query], high[layer, query]
            for k in range(cell, end):
                near = (least < cell_keys[k]) & (cell_keys[k] <= most)
                above += near & (scores[k] > target)
                same += near & (scores[k] == target)
            greater[pair] += above
            equal[pair] += same
        cell = end


@njit(nogil=True, cache=True)
def insert_hits(
    query_of: NDArray[np.int32],
    ids: Ints,
    others: NDArray[np.int32],
    other_ids: Ints,
    cell_keys: Keys,
    floor: Keys,
    scores: Doubles,
    hits: Ints,
    hit_scores: Doubles,
) -> None:  # pragma: no cover - compiled
    """Insert the cells above the floor of their query's hits: the greater score first, then the smaller row number.

    Args:
        query_of, others: (c,), query and candidate of each cell; ids, other_ids: their row numbers among all.
        cell_keys, scores: (c,), each cell's key and score; floor: (Q,), the keys of hits are above it.
        hits, hit_scores: (N, k) of all queries.
    """
    last = hits.shape[1] - 1
    for cell in range(len(query_of)):
        if cell_keys[cell] > floor[query_of[cell]]:
            query, item, score = ids[query_of[cell]], other_ids[others[cell]], scores[cell]
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


@njit(nogil=True, cache=True)
def merge_hits(hits: Ints, hit_scores: Doubles, others: Ints, other_scores: Doubles) -> None:  # pragma: no cover
    """Replace the hits of each row by the best of these and others, in the order of `insert_hits`.

    All are (N, k): hits and their scores, best first, then -1 and NaN.
    """
    top = hits.shape[1]
    best, best_scores = np.empty(top, dtype=np.int64), np.empty(top)
    for row in range(hits.shape[0]):
        left, right = 0, 0
        for place in range(top):
            item, other = hits[row, left], others[row, right]
            score, other_score = hit_scores[row, left], other_scores[row, right]
            if other >= 0 and (item < 0 or other_score > score or (other_score == score and other < item)):
                best[place], best_scores[place] = other, other_score
                right += 1
            else:
                best[place], best_scores[place] = item, score
                left += 1
        hits[row], hit_scores[row] = best, best_scores
