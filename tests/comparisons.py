"""A comparison of models that do not differ in anything."""

from __future__ import annotations

import hashlib

import numpy as np

from clipstore.significance import Method, PairedSums, estimate


def equal_models(models: int = 2) -> PairedSums:
    """The same differences for each of some models: 10 means over 700 images with 0 to 7 queries, in two folds."""
    rng = np.random.default_rng(5)
    queries = rng.integers(0, 8, size=(1, 700)).repeat(10, axis=0).astype(np.float64)
    differences = np.where(queries > 0, rng.normal(0.01, 1, size=(10, 700)) * rng.random(700), 0)
    weights = np.vstack([np.eye(10), 100 * (np.arange(10) % 5 < 3)])
    return PairedSums(
        differences=np.tile(differences, (models, 1)),
        queries=np.tile(queries, (models, 1)),
        strata=np.arange(700) % 2,
        weights=np.kron(np.eye(models), weights),
    )


def comparison_digest() -> str:
    """SHA-256 of all estimates of a comparison."""
    estimates = estimate(equal_models(), Method(resamples=500, flips=500))
    parts = (estimates.difference, estimates.low, estimates.high, estimates.p)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
