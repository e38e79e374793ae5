"""How sure a difference is: two models that answered the same queries, compared image by image.

The queries of one image are not independent: five captions of an easy photo are five easy queries. So images are what
is drawn again, and what swaps sides, each with all its queries. The gallery stays as it is: ranks are taken as they
were measured, among the same candidates, and what varies is which images one happened to ask with.

A number compared is a mean over queries, which is a ratio of two sums over images: of what an image's queries add, and
of how many they are. Those sums are all that is needed, for all numbers at once.

The result is the same to the bit on every machine. Matrix products add in an order that the BLAS library chooses by
processor, thread count and shape; here they only ever add numbers whose sums are exact in float64 (see `_exact_terms`).
Everything else is element by element, or `math.fsum`, which rounds once whatever the order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CELLS = 2**22  # of resamples x images held at once
_ROUNDING = 1e-12  # of the sum of all absolute values: sums that differ by less are equal
_EXACT_BITS = 52  # float64 holds integers of 53 bits; one bit is left for the rounding of the terms themselves


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What I images add to K means over queries, and the J numbers that are made of those.

    Attributes:
        differences: (K, I), the sum over an image's queries of the one model's value less the other's.
        queries: (K, I), how many queries that is; 0 where the image asks nothing.
        strata: (I,), the fold of each image: a mean is the mean of its folds' means, those without a query left out,
            and images are drawn within their fold.
        weights: (J, K), the numbers compared, as sums of the K means: the identity, or RSUM's row of hundreds.
    """

    differences: Floats
    queries: Floats
    strata: NDArray[np.int64]
    weights: Floats


@dataclass(frozen=True, kw_only=True)
class Method:
    """How often images are drawn again, how often they swap sides, and what the interval covers."""

    resamples: int = 10_000
    flips: int = 10_000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """J differences, each with its interval and its p-value.

    An interval is NaN where it cannot be had: with a single image, or where images were drawn again of which none asks.
    """

    difference: Floats
    low: Floats
    high: Floats
    p: Floats


def estimate(paired: Paired, method: Method) -> Estimates:
    """The differences of two models with their intervals and p-values; the same seed gives the same to the bit."""
    parts = _contributions(paired)
    low, high = _interval(paired, method)
    difference = np.array([math.fsum(row) for row in parts])
    return Estimates(difference=difference, low=low, high=high, p=_randomization(parts, method))


def holm(p: Floats) -> Floats:
    """P-values corrected so that of all these comparisons together one is wrongly significant at the rate that is read
    off (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979).
    """
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p, method="holm")[1])


def _exact_terms(values: Floats, terms: int) -> tuple[Floats, Floats]:
    """Values (N, I), each row rounded to multiples of a power of two such that float64 adds `terms` of them, with any
    signs and in any order, without an error; and that power of two for each row (N, 1).

    The rounding is at most 2^-52 of `terms` times the largest absolute value of the row: for 5,000 images 1e-12 of it.
    """
    largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
    exponent = np.frexp(largest * terms)[1] - _EXACT_BITS
    return np.ldexp(np.rint(np.ldexp(values, -exponent)), exponent), np.ldexp(np.ones_like(largest), exponent)


def _combined(weights: Floats, values: Floats) -> Floats:
    """The product of weights (J, K) and values (K, N), added in the order of K: equal rows give equal results."""
    combined = np.zeros((len(weights), values.shape[1]))
    for row, column in zip(*np.nonzero(weights), strict=True):
        combined[row] += weights[row, column] * values[column]
    return combined


def _folds(paired: Paired) -> list[tuple[NDArray[np.intp], Floats]]:
    """The images of each fold, and the share (K, 1) that the fold's mean has in each mean."""
    folds = [np.flatnonzero(paired.strata == fold) for fold in np.unique(paired.strata)]
    counted = np.stack([paired.queries[:, images].any(axis=1) for images in folds])
    shares = counted / np.maximum(counted.sum(axis=0), 1)
    return [(images, share[:, None]) for images, share in zip(folds, shares, strict=True)]


def _contributions(paired: Paired) -> Floats:
    """What each image adds to each difference (J, I): the differences are their sums.

    A mean of folds' means is sum over f of share_f * (sum over i in f of d_i) / (sum over i in f of n_i), so image i of
    fold f adds share_f * d_i / n_f.
    """
    added = np.zeros_like(paired.differences)
    for images, share in _folds(paired):
        queries = paired.queries[:, images].sum(axis=1, keepdims=True)
        added[:, images] = paired.differences[:, images] * share / np.maximum(queries, 1)
    return _combined(paired.weights, added)


def _interval(paired: Paired, method: Method) -> tuple[Floats, Floats]:
    """The percentile bootstrap interval (Efron, 1979) of each difference, images drawn with their queries.

    scipy draws places of images; a draw is counted (how often is each image in it?), and one product of the counts with
    the images' sums gives the sums of all K means. Numerator and denominator both vary: some images have more captions.
    """
    from scipy.stats import bootstrap

    folds = _folds(paired)
    terms = [_exact_terms(paired.differences[:, images], len(images))[0] for images, _ in folds]
    if min(len(images) for images, _ in folds) < 2:
        nothing = np.full(len(paired.weights), np.nan)
        return nothing, nothing

    unknown = np.zeros(len(paired.differences), dtype=np.bool_)  # means that some draw left without a query

    def differences(*drawn: NDArray[np.int64], axis: int) -> Floats:  # noqa: ARG001  (scipy's signature: the last)
        means: Any = 0.0
        for (images, share), sums, places in zip(folds, terms, drawn, strict=True):
            times = _counts(places)
            with np.errstate(invalid="ignore"):  # 0 / 0: none of the images drawn asks
                mean = (sums @ times) / (paired.queries[:, images] @ times)
            means += np.where(share > 0, share * mean, 0.0)
        np.logical_or(unknown, np.isnan(means).any(axis=-1), out=unknown)
        return _combined(paired.weights, np.nan_to_num(means))

    found = bootstrap(
        [np.arange(len(images)) for images, _ in folds],
        differences,
        n_resamples=method.resamples,
        batch=max(1, _CELLS // len(paired.strata)),
        vectorized=True,
        confidence_level=method.confidence,
        method="percentile",
        rng=np.random.default_rng([method.seed, 0]),
    ).confidence_interval
    nowhere = (paired.weights != 0) @ unknown
    return np.where(nowhere, np.nan, found.low), np.where(nowhere, np.nan, found.high)


def _counts(places: NDArray[np.int64]) -> Floats:
    """How often each of n images stands in each of R draws of n places (R, n), as (n, R)."""
    draws, images = places.shape
    flat = places + np.arange(draws)[:, None] * images
    return np.bincount(flat.ravel(), minlength=draws * images).reshape(draws, images).T.astype(np.float64)


def _randomization(parts: Floats, method: Method) -> Floats:
    """Two-sided p-values of a randomization test (Fisher, 1935) that lets whole images swap sides.

    If the models are alike, an image's answers may as well have been the other model's: each image's part of the
    difference takes a random sign, the same for all numbers. p is the share of such sums that are as far from 0 as
    the one measured, which counts as one of them (Phipson and Smyth, 2010): never 0.

    scipy's permutation_test does this for one number at a time and sorts random numbers to draw the signs: at 5,000
    images it takes six times as long as this for 20 numbers. The tests hold one against the other.
    """
    rng = np.random.default_rng([method.seed, 1])
    images = parts.shape[1]
    terms, unit = _exact_terms(parts, images)
    # Sums that are equal before rounding differ by as much as all terms were rounded by.
    room = np.maximum(_ROUNDING * np.abs(terms).sum(axis=1), images * unit[:, 0])
    least = (np.abs(terms.sum(axis=1)) - room)[:, None]
    hits = np.zeros(len(parts))
    step = max(1, _CELLS // images)
    for start in range(0, method.flips, step):
        size = (images, min(step, method.flips - start))
        signs = rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float64) * 2 - 1
        hits += (np.abs(terms @ signs) >= least).sum(axis=1)
    return np.asarray((1 + hits) / (1 + method.flips))
