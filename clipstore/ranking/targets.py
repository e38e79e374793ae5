"""The scores of the positive pairs, which every part of the score matrix is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipstore.ranking import kernels
from clipstore.ranking.blocks import Side

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


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
    for part in np.split(order, starts[1:]) if len(pairs) else []:
        rows = pairs[part].astype(np.int32)
        (low_i, low_t), (high_i, high_t) = rows.min(axis=0), rows.max(axis=0) + 1
        left, right = images.read(low_i, high_i), texts.read(low_t, high_t)
        part_scores = np.empty(len(rows))
        kernels.score_cells(left, rows[:, 0] - low_i, right, rows[:, 1] - low_t, part_scores)
        scores[part] = part_scores
        total += [left.sum(axis=0, dtype=np.float64), right.sum(axis=0, dtype=np.float64)]
        rows_read += [len(left), len(right)]
    image_mean, text_mean = total / np.maximum(rows_read, 1)[:, None]
    return Targets(pairs=pairs, scores=scores, image_mean=image_mean, text_mean=text_mean)
