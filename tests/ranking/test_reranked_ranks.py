"""Reranked ranks and hits equal those of an order of all candidates that is written out."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from clipstore.ranking import DirectionRanks, rank_pairs, rerank

Array = NDArray[Any]

QUARTERS = st.integers(-3, 3).map(lambda value: value / 4)  # exact sums, and many ties


@st.composite
def vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    width = draw(st.sampled_from([1, 2, 3]))
    sides = (draw(hnp.arrays(np.float32, (draw(st.integers(1, 9)), width), elements=QUARTERS)) for _ in range(2))
    images, texts = sides
    return images, texts


def full_order(scores: Array, logits: Array, count: int, weight: float) -> list[tuple[int, float, int]]:
    """All candidates of a query in the new order: group (0: rescored, 1: behind), the score in it, and the row."""
    first = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    best = [(0, float(logits[row]) + weight * float(scores[row]), row) for row in first[:count]]
    rest = [(1, float(scores[row]), row) for row in first[count:]]
    return [*sorted(best, key=lambda entry: (-entry[1], entry[2])), *rest]


def check(ranks: DirectionRanks, scores: Array, logits: Array, count: int, weight: float, top_k: int) -> None:
    """`scores` and `logits` are those of all pairs of a query and a candidate."""
    orders = [full_order(scores[query], logits[query], count, weight) for query in range(len(scores))]
    for place, (query, positive) in enumerate(zip(ranks.query, ranks.positive, strict=True)):
        order = orders[query]
        group, score, _ = next(entry for entry in order if entry[2] == positive)
        greater = sum(entry[0] < group or (entry[0] == group and entry[1] > score) for entry in order)
        equal = sum(entry[0] == group and entry[1] == score for entry in order) - 1
        assert (ranks.n_greater[place], ranks.n_equal[place], ranks.score[place]) == (greater, equal, score)
    for query, order in enumerate(orders):
        found = min(top_k, len(order))
        assert ranks.hits[query, :found].tolist() == [entry[2] for entry in order[:found]]
        assert ranks.hit_scores[query, :found].tolist() == [entry[1] for entry in order[:found]]
        assert (ranks.hits[query, found:] == -1).all()
        assert np.isnan(ranks.hit_scores[query, found:]).all()


@given(vectors(), st.data())
@examples(200)
def test_reranked_ranks_equal_a_full_order(sides: tuple[Array, Array], data: st.DataObject) -> None:
    images, texts = sides
    count, top_k = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 5))
    weight = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.0]))
    every = np.array(list(product(range(len(images)), range(len(texts)))))
    pairs = every[data.draw(st.lists(st.integers(0, len(every) - 1), max_size=12))].reshape(-1, 2)
    logits = data.draw(hnp.arrays(np.float32, (len(images), len(texts)), elements=QUARTERS))
    ranks = rank_pairs(images, texts, pairs, top_k=max(count, top_k))
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    for first, matrix, values in (
        (ranks.image_to_text, scores, logits),
        (ranks.text_to_image, scores.T, logits.T),
    ):
        chosen = np.take_along_axis(values, np.maximum(first.hits[:, :count], 0), axis=1)
        chosen = np.where(first.hits[:, :count] >= 0, chosen, np.nan)  # of hits that do not exist there is no score
        reranked = rerank(first, chosen, weight=weight, top_k=top_k)
        check(reranked, matrix, values, count, weight, top_k)


def test_all_candidates_reranked_are_those_of_the_full_score_matrix() -> None:
    """With k = everything, ranks are those of the matrix of sums, by the definitions of ranks."""
    rng = np.random.default_rng(5)
    images, texts = (rng.normal(size=(count, 8)).astype(np.float32) for count in (7, 31))
    pairs = np.stack([rng.integers(0, 7, 60), rng.integers(0, 31, 60)], axis=1)
    logits = rng.integers(-2, 3, (7, 31)).astype(np.float32)  # equal logits, to which different scores are added
    first = rank_pairs(images, texts, pairs, top_k=31).image_to_text
    ranks = rerank(first, np.take_along_axis(logits, first.hits, axis=1), weight=0.0)
    own = logits[pairs[:, 0], pairs[:, 1]]
    assert ranks.n_greater.tolist() == (logits[pairs[:, 0]] > own[:, None]).sum(axis=1).tolist()
    assert ranks.n_equal.tolist() == ((logits[pairs[:, 0]] == own[:, None]).sum(axis=1) - 1).tolist()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_scores_that_are_not_finite_or_missing_are_refused(wrong: float) -> None:
    images, texts = np.eye(2, 3, dtype=np.float32), np.eye(3, dtype=np.float32)
    first = rank_pairs(images, texts, np.zeros((0, 2), dtype=np.int64), top_k=2).image_to_text
    with pytest.raises(ValueError, match="NaN or infinite"):
        rerank(first, np.array([[0, wrong], [0, 0]], dtype=np.float32))
    with pytest.raises(ValueError, match="for"):
        rerank(first, np.zeros((2, 3), dtype=np.float32))
