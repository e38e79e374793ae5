"""Which captions stand together in a batch: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipstore.records import Training

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Captions:
    """The captions to train on.

    Attributes:
        tokens: token ids of all captions, one after another.
        ends: (R,), where in `tokens` each caption ends.
        image: (R,), the number of each caption's image, from 0.
    """

    tokens: NDArray[np.int32]
    ends: Ints
    image: Ints

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], image: Ints) -> Captions:
        """Captions of their token ids."""
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        tokens = np.fromiter((token for one in ids for token in one), dtype=np.int32, count=int(lengths.sum()))
        return cls(tokens=tokens, ends=np.cumsum(lengths), image=image)

    def __len__(self) -> int:
        return len(self.ends)

    def ids(self, rows: Ints) -> list[list[int]]:
        """The token ids of some captions."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        return [self.tokens[start:end].tolist() for start, end in zip(starts, self.ends[rows], strict=True)]


def steps_of(captions: int, training: Training) -> int:
    """How many batches an epoch has."""
    return -(-captions // _asked(training))


def batches(captions: int, training: Training, epoch: int, wrong: Ints) -> Iterator[Ints]:
    """The rows of each batch of an epoch: every caption once, in an order drawn from the seed and the epoch.

    With hard negatives, each caption brings up to `training.hard_negatives` rows drawn from its row of `wrong`
    (R, any; -1: none), as far as they are not in the batch yet; a batch then holds so many captions fewer of its own.
    """
    rng = np.random.default_rng([training.seed, epoch])
    order = rng.permutation(captions)
    size = _asked(training)
    for start in range(0, captions, size):
        rows = order[start : start + size]
        yield _with_negatives(rows, training.hard_negatives, wrong, rng) if training.hard_negatives else rows


def _asked(training: Training) -> int:
    return max(1, training.batch // (1 + training.hard_negatives))


def _with_negatives(rows: Ints, count: int, wrong: Ints, rng: np.random.Generator) -> Ints:
    shuffled = rng.permuted(wrong[rows], axis=1)
    # The rows that there are come first, in the order drawn.
    shuffled = np.take_along_axis(shuffled, np.argsort(shuffled < 0, axis=1, kind="stable"), axis=1)[:, :count]
    added = shuffled[shuffled >= 0]
    return np.array(list(dict.fromkeys([*rows.tolist(), *added.tolist()])), dtype=np.int64)
