"""Plan: the pairs that have no score yet, cut into plans of one shard each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipstore.pipeline.evaluate.candidates import PairItems
from clipstore.records import ImageFile, MatchingHead, MatchPlan

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """The pairs that a reranking of a gallery needs.

    Attributes:
        codes: (P,), ascending, all of them (see `PairItems.codes`).
        missing: (M,), ascending, those without a score.
    """

    head: MatchingHead
    items: PairItems
    codes: Ints
    missing: Ints


def match_plans(work: Work, shard_pairs: int) -> Iterator[MatchPlan]:
    """Plans of the missing pairs, in the order of the images.

    A plan ends with the image that completes `shard_pairs` pairs. So plans depend only on the pairs from their first
    one on: after an interruption, the plans of the pairs that are left are those that were left.
    """
    codes = work.missing
    images, texts = np.divmod(codes, max(1, len(work.items.texts)))
    starts = np.flatnonzero(np.diff(images, prepend=-1))  # the first pair of each image
    ends = np.append(starts[1:], len(codes))[: len(starts)]
    first = 0
    for place, end in enumerate(ends.tolist()):
        if end - starts[first] >= shard_pairs or end == len(codes):
            yield _plan(work, images[starts[first] : end], texts[starts[first] : end])
            first = place + 1


def _plan(work: Work, images: Ints, texts: Ints) -> MatchPlan:
    """The plan of pairs in the order of their images."""
    own_texts, rows = np.unique(texts, return_inverse=True)
    own_images, starts = np.unique(images, return_index=True)
    files = [work.items.images[row] for row in own_images.tolist()]
    inputs = [work.items.texts[row] for row in own_texts.tolist()]
    return MatchPlan(
        head=work.head,
        images=[ImageFile(row["content"], row["path"], row["size"]) for row in files],
        texts=[row["text"] for row in inputs],
        text_contents=[row["content"] for row in inputs],
        candidates=[part.tolist() for part in np.split(rows, starts[1:])],
    )
