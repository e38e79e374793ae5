"""Comparing the probe vector of a loaded model with the stored one. Needs no catalog, so that any process can do it."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import ModelError
from clipstore.records import MatchingHead, Row, Tower

# The largest valid 1 - cosine, at the precision that the fingerprint covers. Kinds of devices round bf16 differently:
# 1 - cosine to fp32 is 1e-5 to 1e-4 there.
LARGEST_DISTANCE = 1e-4
LARGEST_BF16_DISTANCE = 1e-3

_SOFTWARE = ("torch", "transformers", "peft", "tokenizers", "pillow")

Floats = NDArray[np.float32]


def check_probe(
    words: str, tower: Tower | MatchingHead, vector: Floats, row: Row, device: str, *, same_rounding: bool
) -> None:
    """Compare a probe's vector, computed on a kind of device, with the stored `row`; `words` begin the message.

    `same_rounding`: both were computed on one kind of device in one precision.

    Raises:
        ModelError: they differ.
    """
    stored = np.array(row["vector"], dtype=np.float64)
    distance = _distance(vector.astype(np.float64), stored)
    largest = LARGEST_BF16_DISTANCE if tower.precision == "bf16" and not same_rounding else LARGEST_DISTANCE
    if distance > largest:
        message = (
            f"{words} differ from those stored under its fingerprint "
            f"{tower.fingerprint[:12]} (cosine {1 - distance:.5f} for the probe): they were computed on "
            f"{row['device']} with {row['software']}; this run uses {device} with {software()}: install the earlier "
            "versions, or use another --store"
        )
        raise ModelError(message)


def _distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """1 - cosine. If a vector has no direction (zero or non-finite): 0 if neither has one, else 2."""
    if first.shape != second.shape:
        return 2.0
    norms = [float(np.linalg.norm(vector)) for vector in (first, second)]
    valid = [np.isfinite(norm) and norm > 0 for norm in norms]
    if not all(valid):
        return 0.0 if not any(valid) else 2.0
    return 1.0 - float((first / norms[0]) @ (second / norms[1]))


def software() -> str:
    """The versions that vectors depend on, for messages and for the stored probe."""
    return ", ".join(f"{name} {version(name)}" for name in _SOFTWARE)
