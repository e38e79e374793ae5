"""Paired differences: what intervals cover, what p-values promise; scipy, statsmodels and enumeration as oracles."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap, kstest, norm, permutation_test

from clipstore.significance import Estimates, Method, PairedSums, estimate, holm

Floats = NDArray[np.float64]


def paired(differences: Any, queries: Any = None, strata: Any = None, weights: Any = None) -> PairedSums:
    """Differences (K, I), by default of one query an image, in one fold, each compared for itself."""
    differences = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    means, images = differences.shape
    queries = np.ones(differences.shape) if queries is None else np.asarray(queries, dtype=np.float64)
    return PairedSums(
        differences=differences,
        queries=np.broadcast_to(queries, differences.shape),
        strata=np.zeros(images, dtype=np.int64) if strata is None else np.asarray(strata),
        weights=np.eye(means) if weights is None else np.asarray(weights, dtype=np.float64),
    )


# --- simulated pairs of models


IMAGES, CAPTIONS, PAIRS = 200, 5, 1000


def simulated_hits(seed: int, gain: float, images: int = IMAGES) -> tuple[Floats, float]:
    """PAIRS comparisons of two models on images x CAPTIONS queries: differences of hits, and the true difference.

    A caption is found where a sum of normal numbers passes 0.5: the image's own, which both models share, the model's
    liking of that image, the caption's own, which both share, the model's liking of the caption, and the gain of the
    second model. Their variances are 1, so a caption is found with the chance Phi((gain - 0.5) / 2).
    """
    rng = np.random.default_rng(seed)
    image, caption = rng.normal(size=(PAIRS, images, 1)), rng.normal(size=(PAIRS, images, CAPTIONS))

    def hits(gain: float) -> Floats:
        liking = rng.normal(size=image.shape) + rng.normal(size=caption.shape)
        return (image + caption + liking + gain > 0.5).astype(np.float64)

    differences = hits(gain) - hits(0.0)
    return differences, float(norm.cdf((gain - 0.5) / 2) - norm.cdf(-0.5 / 2))


def clustered(differences: Floats, method: Method) -> Estimates:
    return estimate(paired(differences.sum(axis=2), np.full((1, differences.shape[1]), CAPTIONS)), method)


def naive(differences: Floats, method: Method) -> Estimates:
    """As if each caption were a photo of its own."""
    return estimate(paired(differences.reshape(PAIRS, -1)), method)


def test_intervals_cover_the_truth() -> None:
    differences, truth = simulated_hits(seed=1, gain=0.15)
    method = Method(resamples=2000, flips=1)
    share = {}
    for way in (clustered, naive):
        found = way(differences, method)
        share[way.__name__] = float(np.mean((found.low <= truth) & (truth <= found.high)))
        print(f"{way.__name__} intervals cover the truth in {share[way.__name__]:.1%} of {PAIRS} pairs")  # -rP shows it
    assert 0.93 <= share["clustered"] <= 0.97
    assert share["naive"] < 0.87


@pytest.mark.parametrize(("images", "least", "most"), [(10, 0.86, 0.91), (50, 0.92, 0.95)])
def test_intervals_from_few_images_cover_less(images: int, least: float, most: float) -> None:
    """Why the command warns of fewer than 50 images."""
    differences, truth = simulated_hits(seed=1, gain=0.15, images=images)
    found = clustered(differences, Method(resamples=2000, flips=1))
    covered = np.mean((found.low <= truth) & (truth <= found.high))
    print(f"intervals from {images} images cover the truth in {covered:.1%} of {PAIRS} pairs")
    assert least < covered < most


def test_p_values_are_uniform_under_no_difference() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(size=(PAIRS, IMAGES, 1)) + rng.normal(size=(PAIRS, IMAGES, CAPTIONS))
    method = Method(resamples=2, flips=4000)
    right, wrong = clustered(differences, method).p, naive(differences, method).p
    assert kstest(right, "uniform").pvalue > 0.05
    assert binomtest(int((right < 0.05).sum()), PAIRS, 0.05).pvalue > 0.05
    assert kstest(wrong, "uniform").pvalue < 1e-9
    print(f"p < 0.05 in {np.mean(right < 0.05):.1%} by image, in {np.mean(wrong < 0.05):.1%} by caption")
    assert np.mean(wrong < 0.05) > 0.15


def test_p_values_of_hits_are_no_smaller_than_they_ought_to_be() -> None:
    """Hits are 0 or 1: many sums are equal, and p lies in steps, on the safe side."""
    differences, _ = simulated_hits(seed=2, gain=0.0)
    p = clustered(differences, Method(resamples=2, flips=2000)).p
    for level in (0.01, 0.05, 0.1, 0.5):
        assert binomtest(int((p <= level).sum()), PAIRS, level, alternative="greater").pvalue > 0.01


# --- beside scipy, statsmodels and enumeration


def test_the_interval_is_scipys_where_each_image_is_one_query() -> None:
    rng = np.random.default_rng(5)
    baseline = rng.random(150)
    value = np.clip(baseline + rng.normal(0.05, 0.3, size=150), 0, 1)
    ours = estimate(paired(value - baseline), Method(resamples=50_000))
    theirs = bootstrap(
        (value, baseline),
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        n_resamples=50_000,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(6),
    )
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low[0] == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert ours.high[0] == pytest.approx(theirs.confidence_interval.high, abs=0.02 * width)
    assert ours.difference[0] == pytest.approx(value.mean() - baseline.mean(), abs=1e-12)


def test_the_interval_is_as_wide_as_statsmodels_clustered_errors_say() -> None:
    rng = np.random.default_rng(8)
    own = rng.integers(1, 8, size=2000)
    image = np.repeat(np.arange(2000), own)
    differences = 0.1 + rng.normal(size=2000)[image] + rng.normal(size=len(image))
    ours = estimate(paired(np.bincount(image, differences), own), Method())
    model = sm.OLS(differences, np.ones(len(image)))
    robust = model.fit(cov_type="cluster", cov_kwds={"groups": image}).bse[0]
    plain = model.fit().bse[0]
    assert ours.high[0] - ours.low[0] == pytest.approx(2 * 1.96 * robust, rel=0.03)
    assert robust > 1.5 * plain


def test_the_interval_is_that_of_all_resamples() -> None:
    """Five images with 1 to 9 queries: all 5^5 draws, as ratios of their sums."""
    differences, queries = np.array([3.0, -1.0, 0.5, 4.0, -2.0]), np.array([5, 1, 2, 9, 3])
    ratios = np.array(
        [differences[list(draw)].sum() / queries[list(draw)].sum() for draw in product(range(5), repeat=5)]
    )
    found = estimate(paired(differences, queries), Method(resamples=20_000))
    for end, level in ((found.low[0], 0.025), (found.high[0], 0.975)):
        assert (ratios < end - 1e-9).mean() <= level + 0.005
        assert (ratios <= end + 1e-9).mean() >= level - 0.005


def test_p_is_scipys_over_all_flips() -> None:
    rng = np.random.default_rng(11)
    differences = rng.normal(0.5, 1.0, size=(6, 10))
    ours = estimate(paired(differences), Method(flips=20_000)).p
    for own, row in zip(ours, differences, strict=True):
        exact = permutation_test(  # of 10 images all 1,024
            (row,),
            lambda sample, axis: sample.sum(axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        ).pvalue
        assert own == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_p_is_that_of_all_flips_in_folds_and_with_ties() -> None:
    """Two folds of 3 and 6 images, whole numbers that tie: the mean of the folds' means under all 2^9 signs."""
    differences, queries = np.array([2, 1, 0, 3, -1, 1, 2, 1, 0]), np.array([3, 2, 1, 5, 2, 1, 4, 2, 2])
    strata = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    added = differences / np.array([queries[strata == fold].sum() for fold in strata]) / 2
    sums = np.array([np.dot(signs, added) for signs in product((-1, 1), repeat=9)])
    exact = np.mean(np.abs(sums) >= abs(added.sum()) - 1e-9)
    found = estimate(paired(differences, queries, strata), Method(flips=40_000))
    assert found.difference[0] == pytest.approx((3 / 6 + 6 / 16) / 2)
    assert found.p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@examples(20)  # statsmodels collects garbage at every call
def test_holm(values: list[float]) -> None:
    """The k-th smallest of n goes up by n - k + 1, and none comes out below a smaller one (Holm, 1979)."""
    p = np.array(values)
    order = np.argsort(p, kind="stable")
    expected = np.empty(len(p))
    expected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    assert holm(p) == pytest.approx(expected, rel=1e-12)


# --- what holds of any comparison


QUICK = Method(resamples=200, flips=200)


@st.composite
def comparisons(draw: st.DrawFn) -> PairedSums:
    """One to three means over 2 to 12 images, some of which ask nothing, in one or two folds."""
    means, images = draw(st.integers(1, 3)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries = rng.integers(0, 4, size=(means, images))
    queries[:, 0] += 1
    differences = np.where(queries > 0, rng.integers(-3, 4, size=queries.shape), 0)
    strata = np.arange(images) % 2 if draw(st.booleans()) and images > 3 else None
    return paired(differences, queries, strata, np.vstack([np.eye(means), 100 * np.ones(means)]))


@given(comparisons())
@examples(50)
def test_sides_mirror_and_sums_add_up(one: PairedSums) -> None:
    found = estimate(one, QUICK)
    turned = paired(-one.differences, one.queries, one.strata, one.weights)
    mirrored = estimate(turned, QUICK)
    assert mirrored.difference == pytest.approx(-found.difference, abs=1e-12)
    assert mirrored.low == pytest.approx(-found.high, abs=1e-9, nan_ok=True)
    assert mirrored.high == pytest.approx(-found.low, abs=1e-9, nan_ok=True)
    assert mirrored.p == pytest.approx(found.p)
    assert found.difference[-1] == pytest.approx(100 * found.difference[:-1].sum(), abs=1e-9)
    assert ((found.p > 0) & (found.p <= 1)).all()


@given(comparisons(), st.randoms(use_true_random=False))
@examples(50)
def test_the_order_of_images_is_irrelevant(one: PairedSums, random: Any) -> None:
    order = list(range(len(one.strata)))
    random.shuffle(order)
    other = paired(one.differences[:, order], one.queries[:, order], one.strata[order], one.weights)
    assert estimate(other, QUICK).difference == pytest.approx(estimate(one, QUICK).difference, abs=1e-12)


def test_equal_models_differ_by_nothing() -> None:
    found = estimate(paired(np.zeros((3, 40)), np.full((3, 40), 5)), Method())
    for values in (found.difference, found.low, found.high):
        assert values.tolist() == [0, 0, 0]
    assert found.p.tolist() == [1, 1, 1]


def test_the_same_seed_gives_the_same_and_p_is_never_0() -> None:
    differences = np.random.default_rng(0).normal(3, 1, size=(2, 300))
    one, same, other = (estimate(paired(differences), Method(seed=seed)) for seed in (7, 7, 8))
    assert (one.low == same.low).all()
    assert (one.p == same.p).all()
    assert (one.low != other.low).all()
    assert one.p.tolist() == [1 / 10_001] * 2


def test_images_are_drawn_within_their_fold() -> None:
    """Each fold is all of one value: whichever of its images are drawn, its mean stays."""
    found = estimate(paired([1.0] * 30 + [3.0] * 10, strata=[0] * 30 + [1] * 10), Method())
    assert (found.difference[0], found.low[0], found.high[0]) == (2, 2, 2)
    whole = estimate(paired([1.0] * 30 + [3.0] * 10), Method())
    assert whole.difference[0] == 1.5
    assert whole.low[0] < 1.4
    assert whole.high[0] > 1.6


def test_a_fold_without_queries_does_not_count() -> None:
    found = estimate(paired([1.0, 3.0, 0.0, 0.0], [1, 1, 0, 0], [0, 0, 1, 1]), Method())
    assert (found.difference[0], found.low[0], found.high[0]) == (2, 1, 3)


def test_one_image_has_no_interval() -> None:
    found = estimate(paired([[4000.0]], [[10_000]]), Method())
    assert found.difference.tolist() == [0.4]
    assert np.isnan([found.low[0], found.high[0]]).all()
    assert found.p.tolist() == [1]


def test_no_interval_where_draws_hold_no_query_and_one_for_the_others() -> None:
    differences, queries = np.ones((2, 20)), np.ones((2, 20))
    differences[1, 2:] = queries[1, 2:] = 0  # of the second mean two images ask
    found = estimate(paired(differences, queries), Method())
    assert np.isnan(found.low).tolist() == [False, True]
    assert (found.low[0], found.high[0]) == (1, 1)


def test_ten_thousand_queries_of_one_image_are_one_image() -> None:
    """Its captions got better, nobody else's: by query certain, by image luck."""
    own = np.array([10_000] + [5] * 99)
    differences = np.where(own > 5, 6000.0, 0.0)
    found = estimate(paired(differences, own), Method())
    assert found.p[0] == 1
    assert found.low[0] == 0
    by_query = estimate(paired(np.repeat(differences / own, own)), Method(resamples=200, flips=200))
    assert by_query.p[0] < 0.01
    assert by_query.low[0] > 0.5
