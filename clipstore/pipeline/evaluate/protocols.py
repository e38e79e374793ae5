"""What a protocol asks of a gallery: which galleries are ranked, which pairs count, and in which direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.datasets.extended import SOURCES, extended_positives
from clipstore.errors import VectorError
from clipstore.store.vectors import Gallery

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

FIRST = 5  # captions of an image with --captions first5
_FOLD, _FOLDS = 1000, 5  # images of a fold of coco-1k
LEAST_QUERIES = 100  # of eccv and cxc, in each direction: fewer tell nothing of a model


@dataclass(frozen=True, kw_only=True)
class Task:
    """One gallery to rank, as places in the tables of a `Gallery`, and the positives in it.

    Attributes:
        images, captions: places (N,) and (M,).
        pairs: (P, 2), rows of `images` and `captions`.
        from_image, from_caption: (P,), whether a pair counts image to text, and text to image.
    """

    images: Ints
    captions: Ints
    pairs: Ints
    from_image: Mask
    from_caption: Mask


def tasks(protocol: str, found: Gallery) -> list[Task]:
    """The galleries of a protocol.

    Raises:
        VectorError: the split is none that the protocol can be measured on.
        DatasetError: the positives of eccv or cxc are not to be had.
    """
    if protocol == "coco-1k":
        return list(_folds(found))
    if protocol in ("eccv", "cxc"):
        return [_extended(protocol, found)]
    return [_whole(found, found.pairs, np.ones(len(found.pairs), bool), np.ones(len(found.pairs), bool))]


def _whole(found: Gallery, pairs: Ints, from_image: Mask, from_caption: Mask) -> Task:
    return Task(
        images=np.arange(found.images.table.num_rows),
        captions=np.arange(found.texts.table.num_rows),
        pairs=pairs,
        from_image=from_image,
        from_caption=from_caption,
    )


def _folds(found: Gallery) -> Iterator[Task]:
    """Five folds of a thousand images by their place in the split, whichever of them can be ranked."""
    if found.images_in_split != _FOLD * _FOLDS:
        message = (
            f"coco-1k is five folds of 1,000 images in Karpathy's order, such as coco/test: this split has "
            f"{found.images_in_split:,}; use the protocol standard"
        )
        raise VectorError(message)
    image_fold = found.images.table["position"].to_numpy() // _FOLD
    caption_fold = image_fold[found.pairs[:, 0]]  # a pair a caption, in the captions' order
    for fold in range(_FOLDS):
        images, captions = np.flatnonzero(image_fold == fold), np.flatnonzero(caption_fold == fold)
        pairs = np.stack([np.searchsorted(images, found.pairs[captions, 0]), np.arange(len(captions))], axis=1)
        every = np.ones(len(pairs), bool)
        yield Task(images=images, captions=captions, pairs=pairs, from_image=every, from_caption=every)


def _extended(protocol: str, found: Gallery) -> Task:
    images, captions = found.images.table["source_id"], found.texts.table["source_id"]
    sides = [_rows(positives, images, captions) for positives in extended_positives(protocol)]
    if not all(len(side) for side in sides):
        message = (
            f"none of the positives of {protocol} is in this split: it is made for Karpathy's test split of COCO "
            "('clipstore ingest karpathy dataset_coco.json ROOT', then --split coco/test)"
        )
        raise VectorError(message)
    codes = [side[:, 0] * len(captions) + side[:, 1] for side in sides]
    every = np.union1d(*codes)
    pairs = np.stack(np.divmod(every, len(captions)), axis=1)
    return _whole(found, pairs, np.isin(every, codes[0]), np.isin(every, codes[1]))


def _rows(positives: pa.Table, images: pa.ChunkedArray, captions: pa.ChunkedArray) -> Ints:
    """The pairs that the gallery holds, as rows (P, 2) of its images and captions."""
    image = pc.index_in(positives["image"], value_set=images)
    caption = pc.index_in(positives["caption"], value_set=captions)
    there = pc.and_(image.is_valid(), caption.is_valid())
    rows = [pc.filter(side, there).to_numpy().astype(np.int64) for side in (image, caption)]
    return np.stack(rows, axis=1)


def restrict_queries(task: Task, found: Gallery, asking: Mask) -> Task:
    """A task in which only some images of the gallery ask, and captions of them; all stay to be found.

    `asking` (N,) tells for each image of the gallery's table.
    """
    image_of_caption = np.zeros(found.texts.table.num_rows, dtype=np.int64)
    image_of_caption[found.pairs[:, 1]] = found.pairs[:, 0]
    by_image = asking[task.images[task.pairs[:, 0]]]
    by_caption = asking[image_of_caption[task.captions[task.pairs[:, 1]]]]
    return replace(task, from_image=task.from_image & by_image, from_caption=task.from_caption & by_caption)


def check_queries(protocol: str, asked: list[Task], *, partial: bool) -> None:
    """Hold a gallery to a number of the queries of eccv or cxc, unless `partial` says that a part will do.

    Raises:
        VectorError: fewer than LEAST_QUERIES are in it, in one direction.
    """
    if protocol not in SOURCES or partial:
        return
    counts = [
        len(np.unique(np.concatenate([task.pairs[task.from_image, 0] for task in asked]))),
        len(np.unique(np.concatenate([task.pairs[task.from_caption, 1] for task in asked]))),
    ]
    if min(counts) < LEAST_QUERIES:
        to_text, to_image = extended_positives(protocol)
        every = pc.count_distinct(to_text["image"]).as_py(), pc.count_distinct(to_image["caption"]).as_py()
        message = (
            f"{protocol} asks with {every[0]:,} images and {every[1]:,} captions of Karpathy's test split of COCO, and "
            f"here are {counts[0]:,} and {counts[1]:,} of them, fewer than {LEAST_QUERIES}: evaluate coco/test, or "
            "these few with --partial"
        )
        raise VectorError(message)


def without_positive(found: Gallery, asked: list[Task]) -> tuple[int, int]:
    """How many images and how many captions of the gallery ask nothing, because nothing in it would be right."""
    counts = [found.images.table.num_rows, found.texts.table.num_rows]
    for task in asked:
        counts[0] -= len(np.unique(task.pairs[task.from_image, 0]))
        counts[1] -= len(np.unique(task.pairs[task.from_caption, 1]))
    return counts[0], counts[1]


def lost_positives(protocol: str, asked: list[Task]) -> int:
    """How many positives of eccv or cxc are not in the gallery."""
    if protocol not in ("eccv", "cxc"):
        return 0
    known = sum(int(positives.num_rows) for positives in extended_positives(protocol))
    return known - sum(int(task.from_image.sum() + task.from_caption.sum()) for task in asked)
