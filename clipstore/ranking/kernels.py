"""The compiled loops of ranking after the screen: score cells, accumulate counts, floors and hits.

numba compiles them at the first call and caches the machine code on disk; they release the interpreter's lock.

A *key* is an integer that sorts as the approximate scores do, see `screening`.
"""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.ranking.compiling import copy_values, njit
from clipstore.ranking.intrinsics import prefetch_row

Keys = NDArray[Any]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_PREFETCH_DISTANCE = 3  # cells


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def first_longer(values: NDArray[np.float32], longest: float) -> int:  # pragma: no cover - compiled
    """The first row that is longer than `longest` or has a value that is not finite; -1: none."""
    most = longest * longest
    for row in range(values.shape[0]):
        total = 0.0
        for k in range(values.shape[1]):
            total += np.float64(values[row, k]) * np.float64(values[row, k])
        if not total <= most:  # NaN, too
            return row
    return -1


@njit(nogil=True, cache=True)
def add_rows(values: NDArray[np.float32], total: Doubles) -> None:  # pragma: no cover - compiled
    """Add all rows (n, D) to `total` (D,)."""
    for row in range(values.shape[0]):
        for k in range(values.shape[1]):
            total[k] += np.float64(values[row, k])


@njit(nogil=True, cache=True)
def sum_terms(terms: Doubles, greatest: Doubles) -> Doubles:  # pragma: no cover - compiled
    """The product of each row of `terms` (n, T) and `greatest` (T,), (n,).

    Libraries take longer for so few columns, or start threads of their own.
    """
    sums = np.zeros(len(terms))
    for row in range(len(terms)):
        for term in range(len(greatest)):
            sums[row] += terms[row, term] * greatest[term]
    return sums


@njit(nogil=True, cache=True)
def reorder_rows(values: NDArray[Any], order: Ints) -> None:  # pragma: no cover - compiled
    """Put row order[n] of `values` (n, K) in the place n, in place: memory that is new takes longer than the copy."""
    moved, first_row = np.zeros(len(order), dtype=np.bool_), np.empty(values.shape[1], dtype=values.dtype)
    for first in range(len(order)):
        if moved[first] or order[first] == first:
            continue
        copy_values(first_row, values[first])
        place = first
        while order[place] != first:
            copy_values(values[place], values[order[place]])
            moved[place] = True
            place = order[place]
        copy_values(values[place], first_row)
        moved[place] = True


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
        if cell + _PREFETCH_DISTANCE < len(rows):  # a row is in memory mostly, not in the cache
            prefetch_row(left, np.int64(rows[cell + _PREFETCH_DISTANCE]))
            prefetch_row(right, np.int64(columns[cell + _PREFETCH_DISTANCE]))
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
    targets: Doubles,
    greater: Ints,
    equal: Ints,
) -> None:  # pragma: no cover - compiled
    """Add the counts of one screened tile to those of its queries on one side.

    Args:
        query_of: (c,), the query of each undecided cell; cell_keys, scores: (c,), its key and its score.
        low, high, sure: (L, Q), inputs and result of `screening.screen`.
        targets: (L, Q), the scores of the targets; NaN: none.
        greater, equal: (L, Q).
    """
    for layer in range(sure.shape[0]):
        for query in range(sure.shape[1]):
            greater[layer, query] += sure[layer, query]
    for cell in range(len(query_of)):
        query, key, score = query_of[cell], cell_keys[cell], scores[cell]
        for layer in range(sure.shape[0]):
            near = (low[layer, query] < key) & (key <= high[layer, query])
            greater[layer, query] += near & (score > targets[layer, query])
            equal[layer, query] += near & (score == targets[layer, query])


@njit(nogil=True, cache=True)
def raise_floors(
    query_of: NDArray[np.int32], least: Doubles, reached: Doubles, floor: Doubles
) -> None:  # pragma: no cover - compiled
    """Insert scores that candidates reach at least into the greatest of each query.

    Args:
        query_of, least: (c,), the query of each cell, and a lower bound of its score; a cell is given once.
        reached: (Q, k), descending.
        floor: (Q,), the last of each query's scores in `reached`, or infinity, which nothing raises.
    """
    for cell in range(len(query_of)):
        query, score = query_of[cell], least[cell]
        if score > floor[query]:
            for place in range(reached.shape[1]):  # all of them: a branch at the score's place cannot be predicted
                greater, less = max(reached[query, place], score), min(reached[query, place], score)
                reached[query, place], score = greater, less
            floor[query] = reached[query, -1]


@njit(nogil=True, cache=True)
def choose_possible(
    rows: NDArray[np.int32],
    columns: NDArray[np.int32],
    most: Doubles,
    row_floor: Doubles,
    column_floor: Doubles,
    chosen: NDArray[np.int32],
) -> int:  # pragma: no cover - compiled
    """Set the rows and columns (2, c) of the cells whose scores, at most `most`, can reach a floor of either.

    Returns:
        Their number.
    """
    count = 0
    for cell in range(len(rows)):
        chosen[0, count], chosen[1, count] = rows[cell], columns[cell]
        count += (most[cell] >= row_floor[rows[cell]]) | (most[cell] >= column_floor[columns[cell]])
    return count


@njit(nogil=True, cache=True)
def insert_hits(
    query_of: NDArray[np.int32],
    item_of: NDArray[np.int32],
    scores: Doubles,
    shift: float,
    floor: Doubles,
    ids: Ints,
    item_ids: Ints,
    hits: Ints,
    hit_scores: Doubles,
) -> None:  # pragma: no cover - compiled
    """Insert candidates into the hits of queries: the greater score first, then the smaller row number.

    Args:
        query_of, item_of, scores: (c,), query and candidate of each cell, and its score.
        shift, floor: (Q,), scores less the shift that are below a query's floor are not inserted.
        ids, item_ids: the row numbers of queries and candidates.
        hits, hit_scores: (N, k) of all queries.
    """
    last = hits.shape[1] - 1
    for cell in range(len(query_of)):
        if cell + _PREFETCH_DISTANCE < len(query_of):
            prefetch_row(hits, ids[query_of[cell + _PREFETCH_DISTANCE]])
            prefetch_row(hit_scores, ids[query_of[cell + _PREFETCH_DISTANCE]])
        score = scores[cell]
        if score - shift < floor[query_of[cell]]:
            continue
        query, item = ids[query_of[cell]], item_ids[item_of[cell]]
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
        copy_values(hits[row], best)
        copy_values(hit_scores[row], best_scores)
