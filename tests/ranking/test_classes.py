"""Scores of classes, ranks and average precision, compared with scikit-learn and with counting."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from clipstore.ranking.classes import (
    class_scores,
    mean_average_precision,
    rank_pairs_of_classes,
    score_order,
    top_classes,
)

FEW = st.integers(-3, 3).map(float)  # few values: scores tie


@st.composite
def tables(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, C) with ties, and which image has which class; each class has an image."""
    images, classes = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    scores = draw(arrays(np.float64, (images, classes), elements=FEW))
    positive = draw(arrays(np.bool_, (images, classes)))
    positive[draw(st.integers(0, images - 1))] = True
    return scores, positive


@examples(200)
@given(tables())
def test_ranks_count_the_others(table: tuple[np.ndarray, np.ndarray]) -> None:
    scores, positive = table
    image, label = np.nonzero(positive)
    ranks = rank_pairs_of_classes(scores, image, label)
    for n, (i, c) in enumerate(zip(image, label, strict=True)):
        others = np.delete(scores[i], c), np.delete(scores[:, c], i)
        assert ranks.score[n] == scores[i, c]
        assert (ranks.classes_greater[n], ranks.classes_equal[n]) == (
            (others[0] > scores[i, c]).sum(),
            (others[0] == scores[i, c]).sum(),
        )
        assert (ranks.images_greater[n], ranks.images_equal[n]) == (
            (others[1] > scores[i, c]).sum(),
            (others[1] == scores[i, c]).sum(),
        )


@examples(200)
@given(tables(), st.data())
def test_weighted_average_precision_equals_that_of_scikit_learn(
    table: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    scores, positive = table
    times = data.draw(arrays(np.int64, (len(scores), 3), elements=st.integers(0, 3))).astype(np.float64)
    times[:, 0] = 1  # every image once: the metric itself
    values = mean_average_precision(score_order(scores, positive), times)
    for value, weights in zip(values, times.T, strict=True):
        drawn = [column for column in range(scores.shape[1]) if weights[positive[:, column]].sum()]
        expected = [
            average_precision_score(positive[:, column], scores[:, column], sample_weight=weights) for column in drawn
        ]
        assert value == pytest.approx(np.mean(expected), abs=1e-9) if drawn else np.isnan(value)


@examples(50)
@given(st.integers(0, 2**32 - 1))
def test_scores_do_not_depend_on_the_other_rows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, classes = rng.normal(size=(9, 33)).astype(np.float32), rng.normal(size=(5, 33))
    images[7] = images[2]
    scores = class_scores(images, classes)
    assert np.allclose(scores, images.astype(np.float64) @ classes.T, rtol=0, atol=1e-12)
    assert (scores[7] == scores[2]).all()
    assert (class_scores(images[3:5], classes[[4, 0]]) == scores[3:5][:, [4, 0]]).all()


def test_the_first_classes_are_in_order_and_ties_in_the_order_of_the_classes() -> None:
    assert top_classes(np.array([[1.0, 3.0, 2.0, 3.0]]), 3).tolist() == [[1, 3, 2]]
