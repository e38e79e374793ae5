"""Coverage of intervals and validity of p-values; scipy, statsmodels and enumeration are the oracles."""

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
from statsmodels.stats.multitest import multipletests

from clipstore.significance import Estimates, Method, PairedSums, estimate, holm

Floats = NDArray[np.float64]


def paired(differences: Any, queries: Any = None, strata: Any = None, weights: Any = None) -> PairedSums:
    """Differences (K, I), by default of one query per image, in one fold, each a metric of its own."""
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

    A caption is a hit if a sum of normal numbers exceeds 0.5: an effect of the image and one of the caption, which both
    models share, an effect of the model on the image and one on the caption, and the gain of the second model. The
    variances are 1, so a caption is a hit with probability Phi((gain - 0.5) / 2).
    """
    rng = np.random.default_rng(seed)
    image, caption = rng.normal(size=(PAIRS, images, 1)), rng.normal(size=(PAIRS, images, CAPTIONS))

    def hits(gain: float) -> Floats:
        model = rng.normal(size=image.shape) + rng.normal(size=caption.shape)
        return (image + caption + model + gain > 0.5).astype(np.float64)

    differences = hits(gain) - hits(0.0)
    return differences, float(norm.cdf((gain - 0.5) / 2) - norm.cdf(-0.5 / 2))


def clustered(differences: Floats, method: Method) -> Estimates:
    return estimate(paired(differences.sum(axis=2), np.full((1, differences.shape[1]), CAPTIONS)), method)


def naive(differences: Floats, method: Method) -> Estimates:
    """As if each caption belonged to another image."""
    return estimate(paired(differences.reshape(PAIRS, -1)), method)


def test_intervals_cover_the_truth() -> None:
    differences, truth = simulated_hits(seed=1, gain=0.15)
    method = Method(resamples=2000, flips=1)
    share = {}
    for resample in (clustered, naive):
        estimates = resample(differences, method)
        share[resample.__name__] = float(np.mean((estimates.low <= truth) & (truth <= estimates.high)))
        print(
            f"{resample.__name__} intervals cover the truth in {share[resample.__name__]:.1%} of {PAIRS} pairs"
        )  # -rP shows it
    assert 0.93 <= share["clustered"] <= 0.97
    assert share["naive"] < 0.87


@pytest.mark.parametrize(("images", "least", "most"), [(10, 0.86, 0.91), (50, 0.92, 0.95)])
def test_intervals_from_few_images_cover_less(images: int, least: float, most: float) -> None:
    """The reason why the command warns about fewer than 50 images."""
    differences, truth = simulated_hits(seed=1, gain=0.15, images=images)
    estimates = clustered(differences, Method(resamples=2000, flips=1))
    covered = np.mean((estimates.low <= truth) & (truth <= estimates.high))
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


def test_p_values_of_hits_are_conservative() -> None:
    """Hits are 0 or 1: many sums are equal, and p takes few values."""
    differences, _ = simulated_hits(seed=2, gain=0.0)
    p = clustered(differences, Method(resamples=2, flips=2000)).p
    for level in (0.01, 0.05, 0.1, 0.5):
        assert binomtest(int((p <= level).sum()), PAIRS, level, alternative="greater").pvalue > 0.01


# --- compared with scipy, statsmodels and enumeration


def test_interval_equals_scipys_for_one_query_per_image() -> None:
    rng = np.random.default_rng(5)
    baseline = rng.random(150)
    value = np.clip(baseline + rng.normal(0.05, 0.3, size=150), 0, 1)
    ours = estimate(paired(value - baseline), Method(resamples=50_000))
    reference = bootstrap(
        (value, baseline),
        lambda after, before, axis: after.mean(axis=axis) - before.mean(axis=axis),
        n_resamples=50_000,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(6),
    )
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert ours.low[0] == pytest.approx(reference.confidence_interval.low, abs=0.02 * width)
    assert ours.high[0] == pytest.approx(reference.confidence_interval.high, abs=0.02 * width)
    assert ours.difference[0] == pytest.approx(value.mean() - baseline.mean(), abs=1e-12)


def test_interval_has_the_width_of_statsmodels_clustered_errors() -> None:
    rng = np.random.default_rng(8)
    queries = rng.integers(1, 8, size=2000)
    image = np.repeat(np.arange(2000), queries)
    differences = 0.1 + rng.normal(size=2000)[image] + rng.normal(size=len(image))
    ours = estimate(paired(np.bincount(image, differences), queries), Method())
    model = sm.OLS(differences, np.ones(len(image)))
    robust = model.fit(cov_type="cluster", cov_kwds={"groups": image}).bse[0]
    plain = model.fit().bse[0]
    assert ours.high[0] - ours.low[0] == pytest.approx(2 * 1.96 * robust, rel=0.03)
    assert robust > 1.5 * plain


def test_interval_is_that_of_all_resamples() -> None:
    """Five images with 1 to 9 queries: all 5^5 resamples, as ratios of their sums."""
    differences, queries = np.array([3.0, -1.0, 0.5, 4.0, -2.0]), np.array([5, 1, 2, 9, 3])
    ratios = np.array(
        [differences[list(draw)].sum() / queries[list(draw)].sum() for draw in product(range(5), repeat=5)]
    )
    estimates = estimate(paired(differences, queries), Method(resamples=20_000))
    for end, level in ((estimates.low[0], 0.025), (estimates.high[0], 0.975)):
        assert (ratios < end - 1e-9).mean() <= level + 0.005
        assert (ratios <= end + 1e-9).mean() >= level - 0.005


def test_p_equals_scipys_over_all_flips() -> None:
    rng = np.random.default_rng(11)
    differences = rng.normal(0.5, 1.0, size=(6, 10))
    ours = estimate(paired(differences), Method(flips=20_000)).p
    for p, row in zip(ours, differences, strict=True):
        exact = permutation_test(  # of 10 images all 1,024
            (row,),
            lambda sample, axis: sample.sum(axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
            vectorized=True,
        ).pvalue
        assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_p_is_that_of_all_flips_in_folds_and_with_ties() -> None:
    """Two folds of 3 and 6 images, whole numbers that tie: the mean of the folds' means under all 2^9 signs."""
    differences, queries = np.array([2, 1, 0, 3, -1, 1, 2, 1, 0]), np.array([3, 2, 1, 5, 2, 1, 4, 2, 2])
    strata = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    added = differences / np.array([queries[strata == fold].sum() for fold in strata]) / 2
    sums = np.array([np.dot(signs, added) for signs in product((-1, 1), repeat=9)])
    exact = np.mean(np.abs(sums) >= abs(added.sum()) - 1e-9)
    estimates = estimate(paired(differences, queries, strata), Method(flips=40_000))
    assert estimates.difference[0] == pytest.approx((3 / 6 + 6 / 16) / 2)
    assert estimates.p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000) + 1e-4)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@examples(20)  # statsmodels collects garbage at every call
def test_holm(values: list[float]) -> None:
    p = np.array(values)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


# --- properties of any comparison


QUICK = Method(resamples=200, flips=200)


@st.composite
def comparisons(draw: st.DrawFn) -> PairedSums:
    """One to three means over 2 to 12 images, some without queries, in one or two folds."""
    means, images = draw(st.integers(1, 3)), draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries = rng.integers(0, 4, size=(means, images))
    queries[:, 0] += 1
    differences = np.where(queries > 0, rng.integers(-3, 4, size=queries.shape), 0)
    strata = np.arange(images) % 2 if draw(st.booleans()) and images > 3 else None
    return paired(differences, queries, strata, np.vstack([np.eye(means), 100 * np.ones(means)]))


@given(comparisons())
@examples(50)
def test_exchanged_models_mirror_and_sums_add_up(sums: PairedSums) -> None:
    estimates = estimate(sums, QUICK)
    exchanged = paired(-sums.differences, sums.queries, sums.strata, sums.weights)
    mirrored = estimate(exchanged, QUICK)
    assert mirrored.difference == pytest.approx(-estimates.difference, abs=1e-12)
    assert mirrored.low == pytest.approx(-estimates.high, abs=1e-9, nan_ok=True)
    assert mirrored.high == pytest.approx(-estimates.low, abs=1e-9, nan_ok=True)
    assert mirrored.p == pytest.approx(estimates.p)
    assert estimates.difference[-1] == pytest.approx(100 * estimates.difference[:-1].sum(), abs=1e-9)
    assert ((estimates.p > 0) & (estimates.p <= 1)).all()


@given(comparisons(), st.randoms(use_true_random=False))
@examples(50)
def test_order_of_images_is_irrelevant(sums: PairedSums, random: Any) -> None:
    order = list(range(len(sums.strata)))
    random.shuffle(order)
    shuffled = paired(sums.differences[:, order], sums.queries[:, order], sums.strata[order], sums.weights)
    assert estimate(shuffled, QUICK).difference == pytest.approx(estimate(sums, QUICK).difference, abs=1e-12)


def test_equal_models_have_no_difference() -> None:
    estimates = estimate(paired(np.zeros((3, 40)), np.full((3, 40), 5)), Method())
    for values in (estimates.difference, estimates.low, estimates.high):
        assert values.tolist() == [0, 0, 0]
    assert estimates.p.tolist() == [1, 1, 1]


def test_equal_seeds_give_equal_results_and_p_is_never_0() -> None:
    differences = np.random.default_rng(0).normal(3, 1, size=(2, 300))
    first, same, other = (estimate(paired(differences), Method(seed=seed)) for seed in (7, 7, 8))
    assert (first.low == same.low).all()
    assert (first.p == same.p).all()
    assert (first.low != other.low).all()
    assert first.p.tolist() == [1 / 10_001] * 2


def test_images_are_drawn_within_their_fold() -> None:
    """Each fold has one value, so every resample has the same mean."""
    estimates = estimate(paired([1.0] * 30 + [3.0] * 10, strata=[0] * 30 + [1] * 10), Method())
    assert (estimates.difference[0], estimates.low[0], estimates.high[0]) == (2, 2, 2)
    whole = estimate(paired([1.0] * 30 + [3.0] * 10), Method())
    assert whole.difference[0] == 1.5
    assert whole.low[0] < 1.4
    assert whole.high[0] > 1.6


def test_a_fold_without_queries_does_not_count() -> None:
    estimates = estimate(paired([1.0, 3.0, 0.0, 0.0], [1, 1, 0, 0], [0, 0, 1, 1]), Method())
    assert (estimates.difference[0], estimates.low[0], estimates.high[0]) == (2, 1, 3)


def test_one_image_has_no_interval() -> None:
    estimates = estimate(paired([[4000.0]], [[10_000]]), Method())
    assert estimates.difference.tolist() == [0.4]
    assert np.isnan([estimates.low[0], estimates.high[0]]).all()
    assert estimates.p.tolist() == [1]


def test_only_means_with_queries_in_all_resamples_have_an_interval() -> None:
    differences, queries = np.ones((2, 20)), np.ones((2, 20))
    differences[1, 2:] = queries[1, 2:] = 0  # two images have queries of the second mean
    estimates = estimate(paired(differences, queries), Method())
    assert np.isnan(estimates.low).tolist() == [False, True]
    assert (estimates.low[0], estimates.high[0]) == (1, 1)


def test_ten_thousand_queries_of_one_image_are_one_image() -> None:
    """Only its captions improve: significant by query, not by image."""
    queries = np.array([10_000] + [5] * 99)
    differences = np.where(queries > 5, 6000.0, 0.0)
    estimates = estimate(paired(differences, queries), Method())
    assert estimates.p[0] == 1
    assert estimates.low[0] == 0
    by_query = estimate(paired(np.repeat(differences / queries, queries)), Method(resamples=200, flips=200))
    assert by_query.p[0] < 0.01
    assert by_query.low[0] > 0.5
