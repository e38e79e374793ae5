"""Bitwise reproducible results, for every BLAS kernel, number of threads and order of terms."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from comparisons import comparison_digest, equal_models
from helpers import TESTS, examples
from hypothesis import given
from hypothesis import strategies as st

from clipstore import significance
from clipstore.significance import Method, PairedSums, estimate

# Kernels that every x86-64 processor can run; other processors ignore the first variable.
SETTINGS = (
    {"OPENBLAS_CORETYPE": "Nehalem", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
)

COMPARISON = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from comparisons import comparison_digest
print(comparison_digest())
"""


def test_comparison_is_bitwise_equal_with_other_kernels_and_threads() -> None:
    words = [sys.executable, "-W", "error", "-c", COMPARISON, str(TESTS)]
    digests = {
        subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=True).stdout
        for variables in SETTINGS
    }
    assert digests == {comparison_digest() + "\n"}


@pytest.mark.parametrize("models", [2, 3, 7])
def test_equal_models_have_equal_estimates(models: int) -> None:
    estimates = estimate(equal_models(models), Method(resamples=200, flips=200))
    for values in (estimates.difference, estimates.low, estimates.high, estimates.p):
        first, *others = values.reshape(models, -1).tolist()
        assert all(other == first for other in others)


@given(
    rows=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7), min_size=1, max_size=3),
    extra=st.integers(0, 40_000),
    seed=st.integers(0, 2**32),
)
@examples(60)
def test_exact_terms_have_exact_sums(rows: list[list[float]], extra: int, seed: int) -> None:
    """Compared with fractions: float64 sums are exact, with any signs and repetitions, and the rounding is small."""
    values, rng = np.array(rows), np.random.default_rng(seed)
    terms, unit = significance._exact_terms(values, values.shape[1] + extra)
    times = rng.multinomial(values.shape[1] + extra, np.full(values.shape[1], 1 / values.shape[1]))
    times = times * rng.choice([-1, 1], size=values.shape[1])
    for row, exact in zip(terms, values, strict=True):
        products = row * times
        whole = sum(Fraction(value) * int(count) for value, count in zip(row.tolist(), times, strict=True))
        for order in (np.arange(len(row)), rng.permutation(len(row))):
            total = 0.0
            for index in order:
                total += products[index]
            assert Fraction(total) == whole
        assert np.abs(row - exact).max() <= 2.0**-52 * (values.shape[1] + extra) * np.abs(exact).max()
    assert (np.abs(terms - values) <= unit / 2).all()


@given(st.permutations(range(9)))
@examples(20)
def test_order_of_images_changes_no_bit(order: list[int]) -> None:
    rng = np.random.default_rng(1)
    whole: dict[str, Any] = {
        "differences": rng.normal(size=(3, 9)),
        "queries": rng.integers(1, 5, size=(3, 9)).astype(np.float64),
    }
    parts = [
        estimate(
            PairedSums(
                **{name: part[:, way] for name, part in whole.items()}, strata=np.zeros(9, int), weights=np.eye(3)
            ),
            Method(resamples=10, flips=10),
        )
        for way in (np.arange(9), np.array(order))
    ]
    assert parts[0].difference.tolist() == parts[1].difference.tolist()


def test_equal_candidates_have_equal_bank_terms_at_every_place() -> None:
    """For every width of a product's blocks; 0 and -0 are equal."""
    from clipstore.ranking.query_bank import bank_terms  # imported here: the processes above need no torch

    rng = np.random.default_rng(3)
    bank, candidates = (rng.normal(size=(size, 17)).astype(np.float32) for size in (60, 301))
    candidates[::7] = candidates[0]
    candidates[::7, 3] = np.where(np.arange(43) % 2, 0.0, -0.0)
    terms = bank_terms(bank, candidates, 20.0, memory=2**24)
    assert len(set(terms[::7].tolist())) == 1
    nothing = np.zeros((61, 17), dtype=np.float32)
    assert not bank_terms(nothing, candidates, 0.3, memory=2**24).any()
