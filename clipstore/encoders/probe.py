"""A fixed image and a fixed caption. Their vectors are stored when a model is first used and compared later."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipstore.errors import ModelError
from clipstore.records import MatchingHead, Tower

CAPTION = "a photo of two dogs beside a red bicycle, seen from above"

_WIDTH, _HEIGHT = 320, 240

# The largest valid 1 - cosine, at the precision that the fingerprint covers. Kinds of devices round bf16 differently:
# 1 - cosine to fp32 is 1e-5 to 1e-4 there.
LARGEST_DISTANCE = 1e-4
LARGEST_BF16_DISTANCE = 1e-3

_SOFTWARE = ("torch", "transformers", "peft", "tokenizers", "pillow")

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """The vector (dim,) of the probe under a fingerprint, and what computed it: kind of device, and versions."""

    vector: list[float]
    device: str
    software: str


def probe_image() -> Image.Image:
    """An image of smooth colours with a fine texture, computed in integers: identical on every machine."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    texture = (rows * rows * 3 + columns * rows * 5 + columns * 7) % 61
    colours = np.stack(
        [columns * 200 // _WIDTH, rows * 200 // _HEIGHT, (columns + rows) * 200 // (_WIDTH + _HEIGHT)], axis=-1
    )
    return Image.fromarray((colours + texture[..., None] % 55).astype(np.uint8))


def check_probe(
    words: str, tower: Tower | MatchingHead, vector: Floats, stored: Probe, device: str, *, same_rounding: bool
) -> None:
    """Compare a probe (dim,) that was computed on a kind of device with the stored one of its fingerprint.

    `same_rounding`: device and precision are those of the stored one. A message begins with `words`.

    Raises:
        ModelError: they differ.
    """
    distance = _distance(vector.astype(np.float64), np.array(stored.vector, dtype=np.float64))
    largest = LARGEST_BF16_DISTANCE if tower.precision == "bf16" and not same_rounding else LARGEST_DISTANCE
    if distance > largest:
        message = (
            f"{words} differ from those stored under its fingerprint {tower.fingerprint[:12]} (cosine "
            f"{1 - distance:.5f} for the probe): they were computed on {stored.device} with {stored.software}; this "
            f"run uses {device} with {probe_software()}: install the earlier versions, or use another --store"
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


def probe_software() -> str:
    """The versions that a probe depends on."""
    return ", ".join(f"{name} {version(name)}" for name in _SOFTWARE)
