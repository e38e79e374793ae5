"""The scores of the positive pairs, which every part of the score matrix is compared with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.ranking import kernels
from clipstore.ranking.blocks import Side, prefetch

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_PROBES = 64  # scores in the digest
_READERS = 2  # blocks read at once: with one in use, as many as the layout of the pass has room for


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """The pairs and their scores.

    Attributes:
        pairs: (P, 2), image row and text row.
        scores: (P,).
        image_mean, text_mean: (D,), the means of the vectors that were read for the scores. They decide no rank: the
            products of centred vectors are more precise.
    """

    pairs: Ints
    scores: Doubles
    image_mean: Doubles
    text_mean: Doubles

    @property
    def shift(self) -> float:
        """The mean score of the pairs."""
        return float(self.scores.mean()) if len(self.scores) else 0.0


def scoring_digest(width: int) -> str:
    """A digest of some scores of vectors of a width: equal on two machines whose processors add in the same order.

    The order of the sum in `kernels.score_cells` is the compiler's choice for the processor. Vectors are drawn such
    that their sums round in every order.
    """
    rng = np.random.default_rng(0)
    shape = (2, _PROBES, width)
    exact = rng.integers(-(2**20), 2**20, shape) * 2.0 ** rng.integers(-32, 0, shape)
    left, right = exact.astype(np.float32)
    scores, rows = np.empty(_PROBES), np.arange(_PROBES, dtype=np.int32)
    kernels.score_cells(left, rows, right, rows, scores)
    return hashlib.sha256(scores.tobytes()).hexdigest()


def score_pairs(images: Side, texts: Side, pairs: Ints, block: int) -> Targets:
    """The score of every pair, read in blocks of `block` rows of each side, of which those without pairs are skipped.

    Raises:
        BadRowError: a row that was read cannot be ranked.
    """
    scores = np.empty(len(pairs))
    total, rows_read = np.zeros((2, images.width)), np.zeros(2)
    tile = pairs // block
    order = np.lexsort((tile[:, 1], tile[:, 0]))
    starts = np.flatnonzero(np.diff(tile[order], axis=0, prepend=-1).any(axis=1))
    parts = [pairs[part].astype(np.int32) for part in np.split(order, starts[1:])] if len(pairs) else []
    place = 0
    # Several are read at once: a shard that a process reads for the first time is compared with its checksum.
    blocks = prefetch(partial(_read_rows, images, texts), parts, min(_READERS, torch.get_num_threads()))
    for rows, (left, right) in zip(parts, blocks, strict=True):
        part_scores = np.empty(len(rows))
        kernels.score_cells(left, rows[:, 0] - rows[:, 0].min(), right, rows[:, 1] - rows[:, 1].min(), part_scores)
        scores[order[place : place + len(rows)]] = part_scores
        place += len(rows)
        for values, side_total in zip((left, right), total, strict=True):
            kernels.add_rows(values, side_total)
        rows_read += [len(left), len(right)]
    image_mean, text_mean = total / np.maximum(rows_read, 1)[:, None]
    return Targets(pairs=pairs, scores=scores, image_mean=image_mean, text_mean=text_mean)


def _read_rows(images: Side, texts: Side, rows: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The rows of both sides from the first to the last of some pairs (p, 2)."""
    (low_i, low_t), (high_i, high_t) = rows.min(axis=0), rows.max(axis=0) + 1
    return images.read(low_i, high_i), texts.read(low_t, high_t)
