"""`rerank`: the ranks of a first stage whose best candidates of each query are ordered again by other scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from clipstore.ranking.merge import DirectionRanks

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_BLOCK_CELLS = 2**22  # cells (pairs x candidates) that are compared at once


def rerank(
    first: DirectionRanks, logits: NDArray[np.floating[Any]], *, weight: float = 1.0, top_k: int = 10
) -> DirectionRanks:
    """Order the first k hits of each query by logit + weight x first-stage score; the others follow in their order.

    The new order of a query's candidates: its first k hits by their sum, of equal sums the smaller row number first;
    then the others by their first-stage score, as before. Two candidates are equal if both are among the k and their
    sums are equal, or neither is and their first-stage scores are equal. A sum is computed in float64.

    For a positive with g candidates of a greater and e of an equal first-stage score:

    - Among the k: the candidates before it are those of the k with a greater sum, and its equals those of the k with an
      equal sum. All others are behind it.
    - Not among the k: the k are before it. They are the first k of the first stage's order, which places the g greater
      ones first, then the e + 1 equal ones in the order of their rows, then the lower ones. It contains no candidate
      lower than the positive, because the positive itself would precede that one. If g >= k, all of the k are greater
      ones, so the candidates before the positive are the k and the g - k other greater ones, and its e equals are
      behind the k: n_greater = g, n_equal = e. If g < k, the k are the g greater ones and k - g of the equals:
      n_greater = k, n_equal = e - (k - g). In both cases n_greater = max(k, g) and n_equal = e - max(k - g, 0).

    Args:
        first: the ranks of the first stage, with at least max(k, `top_k`) hits of each query (or all candidates).
        logits: (N, k), the score of each of the first k hits; of hits that do not exist it is not read.
        weight: the weight of the first-stage score.
        top_k: the number of hits in the result.

    Returns:
        The ranks in the new order. The score of a positive or hit among the k is its sum, that of another one its
        first-stage score; so the scores of a query's hits can rise once, behind the k.

    Raises:
        ValueError: there are fewer hits than `logits` has columns, or a logit is not finite.
    """
    sums = _sums(first, logits, weight)
    order = _new_order(first.hits, sums)
    hits, scores = first.hits.copy(), first.hit_scores.copy()
    count = sums.shape[1]
    hits[:, :count] = np.take_along_axis(first.hits[:, :count], order, axis=1)
    scores[:, :count] = np.take_along_axis(np.where(np.isinf(sums), np.nan, sums), order, axis=1)
    greater, equal, score = _pair_ranks(first, sums)
    return type(first)(
        query=first.query,
        positive=first.positive,
        n_greater=greater,
        n_equal=equal,
        score=score,
        hits=hits[:, :top_k],
        hit_scores=scores[:, :top_k],
    )


def _sums(first: DirectionRanks, logits: NDArray[np.floating[Any]], weight: float) -> Doubles:
    """The sums (N, k) of the first k hits, -infinity for hits that do not exist."""
    count = logits.shape[1]
    if first.hits.shape[1] < count or len(first.hits) != len(logits):
        message = f"{logits.shape} scores for {first.hits.shape} hits"
        raise ValueError(message)
    exists = first.hits[:, :count] >= 0
    if not np.isfinite(logits[exists]).all():
        message = "a score is NaN or infinite"
        raise ValueError(message)
    sums = np.full(logits.shape, -np.inf)
    sums[exists] = logits[exists].astype(np.float64) + weight * first.hit_scores[:, :count][exists]
    return sums


def _new_order(hits: Ints, sums: Doubles) -> Ints:
    """The places (N, k) of the hits by sum, of equal sums by row number; only such queries are sorted by both."""
    order = np.argsort(-sums, axis=1, kind="stable")
    in_order = np.take_along_axis(sums, order, axis=1)
    for query in np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1)).tolist():
        order[query] = np.lexsort((hits[query, : sums.shape[1]], -sums[query]))
    return order


def _pair_ranks(first: DirectionRanks, sums: Doubles) -> tuple[Ints, Ints, Doubles]:
    """n_greater, n_equal and the score of each pair, (P,) each."""
    count = sums.shape[1]
    present = (first.hits[:, :count] >= 0).sum(axis=1)[first.query]  # the k of each pair's query
    greater = np.maximum(first.n_greater, present)
    equal = first.n_equal - np.maximum(present - first.n_greater, 0)
    score = first.score.copy()
    step = max(1, _BLOCK_CELLS // max(1, count))
    for start in range(0, len(first.query), step):
        queries = first.query[start : start + step]
        inside, place = np.nonzero(first.hits[queries, :count] == first.positive[start : start + step, None])
        own, others = sums[queries[inside], place], sums[queries[inside]]
        pairs = start + inside
        score[pairs] = own
        greater[pairs] = (others > own[:, None]).sum(axis=1)
        equal[pairs] = (others == own[:, None]).sum(axis=1) - 1
    return greater, equal, score
