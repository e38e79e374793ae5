"""Synthetic vectors with the geometry of CLIP's on COCO, for benchmarks without a model and images.

They reproduce what was measured with a ViT-B/16 on COCO: the score of an image and its caption is 0.31 on average, that
of other pairs 0.16 with a standard deviation of 0.049. Each modality lies in a cone around an axis; the variation
around it has a decreasing spectrum and clusters. Some captions belong to several images, some images are nearly equal,
and some captions describe their image badly, so that ranks are distributed as on COCO.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_STEP = 4096  # rows generated at once; each step has its own random numbers
_AXIS = (0.72, 0.70)  # component of a unit vector along its modality's axis: images, texts
_AXES_COSINE = 0.16 / (_AXIS[0] * _AXIS[1])
_DECAY = 0.335  # the standard deviation along direction k is k to the power of -_DECAY
_IMAGES_IN_CLUSTER = 40
_CLUSTER = 0.6  # share of an image's variance that is its cluster's
_FIT = (
    0.30,
    0.035,
    0.03,
)  # cosine of a caption's residual with its image's: mean, standard deviation by image, by caption
_SAME_CAPTION, _SAME_IMAGE = 0.01, 0.01  # shares of exact and of near duplicates


@dataclass(frozen=True, kw_only=True)
class SyntheticVectors:
    """N images and M captions of width D from a seed, generated step by step; caption j is of image j * N // M."""

    images: int
    captions: int
    dim: int
    seed: int = 0

    def image_blocks(self) -> Iterator[Vectors]:
        """All image vectors, unit length, in steps."""
        axis = self._axes()[0]
        for start in range(0, self.images, _STEP):
            residuals = self._image_residuals(np.arange(start, min(start + _STEP, self.images)))
            yield _unit(_AXIS[0] * axis + np.sqrt(1 - _AXIS[0] ** 2) * residuals)

    def caption_blocks(self) -> Iterator[Vectors]:
        """All caption vectors, unit length, in steps."""
        axis = self._axes()[1]
        for start in range(0, self.captions, _STEP):
            rows = np.arange(start, min(start + _STEP, self.captions))
            rng = np.random.default_rng([self.seed, 2, start])
            image_rows = self.image_of(rows)
            difficulty = np.random.default_rng([self.seed, 4]).normal(size=self.images)[image_rows]
            fit = np.clip(_FIT[0] + _FIT[1] * difficulty + _FIT[2] * rng.normal(size=len(rows)), 0, 0.95)[:, None]
            image = self._image_residuals(image_rows)
            residuals = fit * image + np.sqrt(1 - fit**2) * _unit(self._noise(rng, len(rows)))
            vectors = _unit(_AXIS[1] * axis + np.sqrt(1 - _AXIS[1] ** 2) * _unit(residuals))
            duplicates = np.flatnonzero(rng.random(len(rows)) < _SAME_CAPTION)
            vectors[duplicates] = vectors[rng.integers(0, len(rows), len(duplicates))]
            yield vectors

    def image_of(self, captions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The image of each caption."""
        return captions * self.images // self.captions

    def _image_residuals(self, rows: NDArray[np.int64]) -> Vectors:
        """The components of images orthogonal to the axis, unit length: the same in every call."""
        parts = [self._image_step(int(step)) for step in np.unique(rows // _STEP)]
        return np.asarray(np.concatenate(parts)[rows - rows[0] // _STEP * _STEP])

    def _image_step(self, step: int) -> Vectors:
        clusters = np.random.default_rng([self.seed, 0])
        count = max(1, self.images // _IMAGES_IN_CLUSTER)
        centres = _unit(self._noise(clusters, count))
        rng = np.random.default_rng([self.seed, 1, step])
        residuals = _unit(self._noise(rng, _STEP))
        residuals = _unit(
            np.sqrt(_CLUSTER) * centres[rng.integers(0, count, _STEP)] + np.sqrt(1 - _CLUSTER) * residuals
        )
        duplicates = np.flatnonzero(rng.random(_STEP) < _SAME_IMAGE)
        residuals[duplicates] = _unit(residuals[rng.integers(0, _STEP, len(duplicates))] + 0.02 * residuals[duplicates])
        return residuals

    def _noise(self, rng: np.random.Generator, rows: int) -> Vectors:
        noise = rng.standard_normal((rows, self.dim), dtype=np.float32)
        return np.asarray(noise * np.arange(1, self.dim + 1, dtype=np.float32) ** -_DECAY)

    def _axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The axes of both modalities."""
        rng = np.random.default_rng([self.seed, 3])
        first, second = np.linalg.qr(rng.normal(size=(self.dim, 2)))[0].T
        return first, _AXES_COSINE * first + np.sqrt(1 - _AXES_COSINE**2) * second


def _unit(rows: NDArray[np.floating]) -> Vectors:
    wide = np.asarray(rows, dtype=np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), dtype=np.float32)
