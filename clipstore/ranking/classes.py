"""Scores of images for classes, and ranks from them: of classes for an image, and of images for a class."""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.ranking.compiling import njit

Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_CELLS = 2**22  # scores that are compared at once


@dataclass(frozen=True, kw_only=True)
class ClassRanks:
    """The ranks of P pairs of an image and one of its classes.

    Attributes:
        classes_greater, classes_equal: (P,), the other classes with a greater, or an equal, score for the image.
        images_greater, images_equal: (P,), the other images with a greater, or an equal, score for the class.
        score: (P,), the score of the pair.
    """

    classes_greater: Ints
    classes_equal: Ints
    images_greater: Ints
    images_equal: Ints
    score: Doubles


def class_scores(images: NDArray[Any], classes: NDArray[Any]) -> Doubles:
    """The dot products (N, C) of image vectors (N, D) and class vectors (C, D), in float64.

    Every score is summed in the order of the dimensions, so that it does not depend on the machine, on the other images
    or on the other classes: equal vectors have equal scores.
    """
    scores = np.zeros((len(images), len(classes)))
    _add_products(images.astype(np.float64), np.ascontiguousarray(classes.T, dtype=np.float64), scores)
    return scores


@njit(nogil=True, cache=True)
def _add_products(images: Doubles, dimensions: Doubles, scores: Doubles) -> None:  # pragma: no cover - compiled
    """Add the products of images (N, D) and classes (D, C) to `scores` (N, C)."""
    for i in range(images.shape[0]):
        line = scores[i]
        for d in range(images.shape[1]):
            value, row = images[i, d], dimensions[d]
            for j in range(line.shape[0]):
                line[j] += value * row[j]


def rank_pairs_of_classes(scores: Doubles, image: Ints, label: Ints) -> ClassRanks:
    """The ranks of pairs of an image (row) and a class (column) in scores (N, C); `image` and `label` are (P,)."""
    score = scores[image, label]
    classes = [np.empty(len(image), dtype=np.int64) for _ in range(2)]
    step = max(1, _CELLS // max(1, scores.shape[1]))
    for start in range(0, len(image), step):
        part = slice(start, start + step)
        rows, own = scores[image[part]], score[part, None]
        classes[0][part], classes[1][part] = (rows > own).sum(axis=1), (rows == own).sum(axis=1) - 1
    images = [np.empty(len(image), dtype=np.int64) for _ in range(2)]
    for number in np.unique(label):
        of_class = label == number
        column, own = np.sort(scores[:, number]), score[of_class]
        above = np.searchsorted(column, own, side="right")
        images[0][of_class] = len(column) - above
        images[1][of_class] = above - np.searchsorted(column, own, side="left") - 1
    return ClassRanks(
        classes_greater=classes[0],
        classes_equal=classes[1],
        images_greater=images[0],
        images_equal=images[1],
        score=score,
    )


@dataclass(frozen=True, kw_only=True)
class ScoreOrder:
    """The images in the order of their scores for each class, the greatest first, (C, N) each.

    Attributes:
        image: rows of images.
        ends: whether the next image has a smaller score, or there is none.
        positive: whether the image has the class.
    """

    image: NDArray[np.int32]
    ends: NDArray[np.bool_]
    positive: NDArray[np.bool_]


def score_order(scores: Doubles, positive: NDArray[np.bool_]) -> ScoreOrder:
    """The order of N images for C classes; scores and `positive` (whether the image has the class) are (N, C)."""
    order = np.argsort(-scores.T, axis=1, kind="stable")
    ordered = np.take_along_axis(scores.T, order, axis=1)
    ends = np.ones(order.shape, dtype=np.bool_)
    ends[:, :-1] = ordered[:, 1:] < ordered[:, :-1]
    return ScoreOrder(image=order.astype(np.int32), ends=ends, positive=np.take_along_axis(positive.T, order, axis=1))


def mean_average_precision(order: ScoreOrder, times: NDArray[Any]) -> Doubles:
    """Mean average precision (R,) of R resamples; `times` (N, R) is how often each image is in each of them.

    Average precision is the sum over thresholds of the increase of recall times the precision, as scikit-learn defines
    it, each image counted so many times. The mean is over the classes that some image of the resample has.
    """
    values = np.empty(times.shape[1])
    _add_average_precision(order.image, order.ends, order.positive, np.ascontiguousarray(times.T), values)
    return values


@njit(nogil=True, cache=True)
def _add_average_precision(
    image: NDArray[np.int32],
    ends: NDArray[np.bool_],
    positive: NDArray[np.bool_],
    times: Doubles,
    values: Doubles,
) -> None:  # pragma: no cover - compiled
    """Set `values` (R,) to the mean average precision of each line of `times` (R, N)."""
    for r in range(times.shape[0]):
        weights, total, classes = times[r], 0.0, 0
        for c in range(image.shape[0]):
            items, hits, before, area = 0.0, 0.0, 0.0, 0.0
            for n in range(image.shape[1]):
                weight = weights[image[c, n]]
                items += weight
                if positive[c, n]:
                    hits += weight
                if ends[c, n] and hits > before:
                    area += (hits - before) * (hits / items)
                    before = hits
            if hits > 0:
                total += area / hits
                classes += 1
        values[r] = total / classes if classes else np.nan


def top_classes(scores: Doubles, k: int) -> Ints:
    """The k classes (columns) with the greatest scores of each image, (N, k); equal scores in the order of classes."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
