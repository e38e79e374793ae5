"""The captions of each batch: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipstore.records import Training

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TrainingCaptions:
    """The captions to train on.

    Attributes:
        tokens: token ids of all captions, concatenated.
        ends: (R,), the end of each caption in `tokens`.
        image: (R,), the number of each caption's image, from 0.
    """

    tokens: NDArray[np.int32]
    ends: Ints
    image: Ints

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], image: Ints) -> TrainingCaptions:
        """Captions with these token ids and image numbers."""
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        tokens = np.fromiter((token for caption in ids for token in caption), dtype=np.int32, count=int(lengths.sum()))
        return cls(tokens=tokens, ends=np.cumsum(lengths), image=image)

    def __len__(self) -> int:
        return len(self.ends)

    def ids(self, rows: Ints) -> list[list[int]]:
        """The token ids of some rows."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        return [self.tokens[start:end].tolist() for start, end in zip(starts, self.ends[rows], strict=True)]


def steps_per_epoch(captions: int, training: Training) -> int:
    """The number of batches in an epoch."""
    return -(-captions // _anchors(training))


def batches(captions: int, training: Training, epoch: int, negatives: Ints) -> Iterator[Ints]:
    """The rows of each batch of an epoch: every caption once, in an order drawn from the seed and the epoch.

    With hard negatives, each of these captions adds up to `training.hard_negatives` rows drawn from its row of
    `negatives` (R, any; padded with -1), unless the batch has them already. A batch then has fewer captions to start
    with, so that it contains about `training.batch` in total.
    """
    rng = np.random.default_rng([training.seed, epoch])
    order = rng.permutation(captions)
    size = _anchors(training)
    for start in range(0, captions, size):
        rows = order[start : start + size]
        yield _add_negatives(rows, training.hard_negatives, negatives, rng) if training.hard_negatives else rows


def _anchors(training: Training) -> int:
    """Captions of a batch that are not added as hard negatives."""
    return max(1, training.batch // (1 + training.hard_negatives))


def _add_negatives(rows: Ints, count: int, negatives: Ints, rng: np.random.Generator) -> Ints:
    shuffled = rng.permuted(negatives[rows], axis=1)
    # Stable sort: rows before padding, in the order drawn.
    shuffled = np.take_along_axis(shuffled, np.argsort(shuffled < 0, axis=1, kind="stable"), axis=1)[:, :count]
    added = shuffled[shuffled >= 0]
    return np.array(list(dict.fromkeys([*rows.tolist(), *added.tolist()])), dtype=np.int64)
