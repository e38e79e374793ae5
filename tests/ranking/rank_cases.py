"""Vectors and pairs for tests of ranking, and a brute force in float64 to compare with."""

from __future__ import annotations

import re
from itertools import product
from math import fsum
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking import DirectionRanks, Ranks, rank_pairs

Array = NDArray[Any]

# Few values whose products and sums are exact in float32 and in float64, so that there are many ties; zero rows too.
QUARTERS = st.integers(-3, 3).map(lambda value: value / 4)


@st.composite
def dyadic_vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    """Images and texts of 0 to 9 rows of one width, often with equal rows and with equal scores."""
    width = draw(st.sampled_from([0, 1, 2, 3, 8, 17]))
    dtypes = st.sampled_from([np.float16, np.float32])
    images, texts = (
        draw(hnp.arrays(draw(dtypes), (draw(st.integers(0, 9)), width), elements=QUARTERS)) for _ in range(2)
    )
    return images, texts


@st.composite
def generic_vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    """Unit vectors in general position, some of them twice, some one float32 step away from another."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.sampled_from([2, 16, 100]))
    sides = []
    for _ in range(2):
        rows = rng.normal(size=(draw(st.integers(1, 8)), width))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        nudged = rows.copy()
        nudged[:, 0] = np.nextafter(nudged[:, 0], np.float32(2))
        sides.append(rng.permutation(np.concatenate([rows, rows[:3], nudged])))
    return sides[0], sides[1]


def draw_pairs(data: st.DataObject, images: Array, texts: Array) -> Array:
    """Any pairs, including duplicates."""
    every = list(product(range(len(images)), range(len(texts))))
    chosen = data.draw(st.lists(st.sampled_from(every), max_size=15)) if every else []
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


def exact_scores(images: Array, texts: Array) -> Array:
    """Every score, correctly rounded: a product of two float32 is exact in float64, and fsum rounds once."""
    left, right = images.astype(np.float64).tolist(), texts.astype(np.float64).tolist()
    scores = [[fsum(a * b for a, b in zip(row, column, strict=True)) for column in right] for row in left]
    return np.array(scores, dtype=np.float64).reshape(len(left), len(right))


def check_direction(ranks: DirectionRanks, scores: Array, pairs: Array, top_k: int) -> None:
    """Check counts and hits against the full matrix of scores."""
    query, positive = pairs[:, 0], pairs[:, 1]
    assert ranks.query.tolist() == query.tolist()
    assert ranks.positive.tolist() == positive.tolist()
    for place, (row, column) in enumerate(pairs.tolist()):
        others = np.delete(scores[row], column)
        assert ranks.n_greater[place] == (others > scores[row, column]).sum()
        assert ranks.n_equal[place] == (others == scores[row, column]).sum()
    np.testing.assert_allclose(ranks.score, scores[query, positive], rtol=1e-12, atol=1e-12)
    assert ranks.hits.shape == ranks.hit_scores.shape == (len(scores), top_k)
    for row, hits, hit_scores in zip(scores, ranks.hits, ranks.hit_scores, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k]
        assert hits.tolist() == best.tolist() + [-1] * (top_k - len(best))
        np.testing.assert_allclose(hit_scores[: len(best)], row[best], rtol=1e-12, atol=1e-12)
        assert np.isnan(hit_scores[len(best) :]).all()


def check(ranks: Ranks, scores: Array, pairs: Array, top_k: int) -> None:
    check_direction(ranks.image_to_text, scores, pairs, top_k)
    check_direction(ranks.text_to_image, scores.T, pairs[:, ::-1], top_k)


def same(first: Ranks, second: Ranks) -> bool:
    """Bitwise equal."""
    return all(
        np.array_equal(vars(left)[name], vars(right)[name], equal_nan=name in ("score", "hit_scores"))
        for left, right in ((first.image_to_text, second.image_to_text), (first.text_to_image, second.text_to_image))
        for name in vars(left)
    )


def least_memory(images: Array, texts: Array, pairs: Array, screen: str = "auto", device: str = "cpu") -> int:
    """The bytes that the error requires: the smallest blocks."""
    with pytest.raises(VectorError) as caught:
        rank_pairs(images, texts, pairs, memory=1, screen=screen, device=device)
    required = re.search(r"at least (\d+)$", str(caught.value))
    assert required, caught.value
    return int(required[1])


def vectors(images: int, texts: int, width: int, seed: int = 0) -> tuple[Array, Array]:
    """Dyadic values in general position with some equal rows: scores are exact and most are distinct."""
    rng = np.random.default_rng(seed)
    left, right = ((rng.normal(size=(rows, width)) * 64).round() / 64 for rows in (images, texts))
    left[::7] = left[0]
    right[::5] = right[0]
    return left.astype(np.float32), right.astype(np.float32)


def sample_pairs(images: int, texts: int, seed: int = 0) -> Array:
    """Each text with one image, in random order, and several images with more texts."""
    rng = np.random.default_rng(seed)
    single = np.stack([rng.integers(0, images, texts), np.arange(texts)], axis=1)
    return rng.permutation(np.concatenate([single, single[::3], rng.integers(0, min(images, texts), (9, 2))]))


@st.composite
def cone_vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    """Rows of any length near an axis of each side, with zero rows and duplicates: for the effects of centring."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.sampled_from([1, 5, 40]))
    sides = []
    for _ in range(2):
        rows = rng.normal(size=(draw(st.integers(1, 12)), width)) * 10.0 ** draw(st.integers(-6, 3))
        rows += rng.normal(size=width) * 10.0 ** draw(st.integers(-3, 3))
        rows[rng.random(len(rows)) < 0.1] = 0
        sides.append(np.concatenate([rows, rows[:2]]).astype(draw(st.sampled_from([np.float16, np.float32]))))
    return sides[0], sides[1]


def generic(rows: int, width: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    sides = rng.normal(size=(rows, width))
    return (sides / np.linalg.norm(sides, axis=1, keepdims=True)).astype(np.float32)
