"""The ranking tasks of a protocol: which galleries are ranked, and which pairs count in which direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.datasets.extended import extended_positives
from clipstore.errors import VectorError
from clipstore.protocols import Protocol
from clipstore.store.gallery import Gallery

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class RankingTask:
    """One set of images and captions to rank, as rows of the tables of a `Gallery`, and the positive pairs in it.

    Attributes:
        images, captions: rows (N,) and (M,) of the gallery's tables.
        pairs: (P, 2), rows of `images` and of `captions`.
        counts_image_to_text, counts_text_to_image: (P,), whether a pair counts image to text, and text to image.
    """

    images: Ints
    captions: Ints
    pairs: Ints
    counts_image_to_text: Mask
    counts_text_to_image: Mask


def ranking_tasks(protocol: Protocol, gallery: Gallery) -> list[RankingTask]:
    """The tasks of a protocol: one for each fold, else one for the whole gallery.

    Raises:
        VectorError: the protocol does not apply to the split.
        DatasetError: the package with the extended positives is not installed.
    """
    if protocol.folds:
        return list(_fold_tasks(protocol, gallery))
    if protocol.extended:
        return [_extended_task(protocol, gallery)]
    all_pairs = np.ones(len(gallery.pairs), bool)
    return [_gallery_task(gallery, gallery.pairs, all_pairs, all_pairs)]


def _gallery_task(gallery: Gallery, pairs: Ints, counts_image_to_text: Mask, counts_text_to_image: Mask) -> RankingTask:
    return RankingTask(
        images=np.arange(gallery.images.table.num_rows),
        captions=np.arange(gallery.texts.table.num_rows),
        pairs=pairs,
        counts_image_to_text=counts_image_to_text,
        counts_text_to_image=counts_text_to_image,
    )


def _fold_tasks(protocol: Protocol, gallery: Gallery) -> Iterator[RankingTask]:
    """Folds by the position of images in the split. Images without a vector are missing from their fold."""
    size, folds = protocol.fold_images, protocol.folds
    if gallery.images_in_split != size * folds:
        message = (
            f"{protocol.name} needs {folds} folds of {size:,} images in Karpathy's order, such as coco/test; this "
            f"split has {gallery.images_in_split:,} images: use --protocol standard"
        )
        raise VectorError(message)
    image_fold = gallery.images.table["position"].to_numpy() // size
    caption_fold = image_fold[gallery.pairs[:, 0]]  # one pair for each caption, in the captions' order
    for fold in range(folds):
        images, captions = np.flatnonzero(image_fold == fold), np.flatnonzero(caption_fold == fold)
        pairs = np.stack([np.searchsorted(images, gallery.pairs[captions, 0]), np.arange(len(captions))], axis=1)
        all_pairs = np.ones(len(pairs), bool)
        yield RankingTask(
            images=images,
            captions=captions,
            pairs=pairs,
            counts_image_to_text=all_pairs,
            counts_text_to_image=all_pairs,
        )


def _extended_task(protocol: Protocol, gallery: Gallery) -> RankingTask:
    images, captions = gallery.images.table["source_id"], gallery.texts.table["source_id"]
    sides = [_gallery_rows(positives, images, captions) for positives in extended_positives(protocol.name)]
    if not all(len(side) for side in sides):
        message = (
            f"no positive of {protocol.name} is in this split: it is defined on Karpathy's test split of COCO "
            "('clipstore ingest karpathy dataset_coco.json ROOT', then --split coco/test)"
        )
        raise VectorError(message)
    codes = [side[:, 0] * len(captions) + side[:, 1] for side in sides]
    union_codes = np.union1d(*codes)
    pairs = np.stack(np.divmod(union_codes, len(captions)), axis=1)
    return _gallery_task(gallery, pairs, np.isin(union_codes, codes[0]), np.isin(union_codes, codes[1]))


def _gallery_rows(positives: pa.Table, images: pa.ChunkedArray, captions: pa.ChunkedArray) -> Ints:
    """The positives that the gallery contains, as rows (P, 2) of its images and captions."""
    image = pc.index_in(positives["image"], value_set=images)
    caption = pc.index_in(positives["caption"], value_set=captions)
    contained = pc.and_(image.is_valid(), caption.is_valid())
    rows = [pc.filter(side, contained).to_numpy().astype(np.int64) for side in (image, caption)]
    return np.stack(rows, axis=1)


def restrict_queries(task: RankingTask, gallery: Gallery, is_query: Mask) -> RankingTask:
    """A task whose queries are restricted to some images and their captions. The candidates are unchanged.

    `is_query` (N,) has an entry for each image of the gallery's table.
    """
    image_of_caption = np.zeros(gallery.texts.table.num_rows, dtype=np.int64)
    image_of_caption[gallery.pairs[:, 1]] = gallery.pairs[:, 0]
    by_image = is_query[task.images[task.pairs[:, 0]]]
    by_caption = is_query[image_of_caption[task.captions[task.pairs[:, 1]]]]
    return replace(
        task,
        counts_image_to_text=task.counts_image_to_text & by_image,
        counts_text_to_image=task.counts_text_to_image & by_caption,
    )


def check_queries(protocol: Protocol, tasks: list[RankingTask], *, partial: bool) -> None:
    """Check that a gallery has the protocol's minimum of queries in each direction, unless `partial`.

    Raises:
        VectorError: it has fewer queries.
    """
    if not protocol.min_queries or partial:
        return
    counts = [
        len(np.unique(np.concatenate([task.pairs[task.counts_image_to_text, 0] for task in tasks]))),
        len(np.unique(np.concatenate([task.pairs[task.counts_text_to_image, 1] for task in tasks]))),
    ]
    if min(counts) < protocol.min_queries:
        to_text, to_image = extended_positives(protocol.name)
        totals = pc.count_distinct(to_text["image"]).as_py(), pc.count_distinct(to_image["caption"]).as_py()
        message = (
            f"{protocol.name} defines {totals[0]:,} image and {totals[1]:,} caption queries on Karpathy's test split "
            f"of COCO; this split contains {counts[0]:,} and {counts[1]:,} (at least {protocol.min_queries} of each "
            "are needed): evaluate coco/test, or these queries with --partial"
        )
        raise VectorError(message)


def count_without_positive(gallery: Gallery, tasks: list[RankingTask]) -> tuple[int, int]:
    """The numbers of images and of captions of the gallery that have no positive in it and are not queries."""
    images, captions = gallery.images.table.num_rows, gallery.texts.table.num_rows
    for task in tasks:
        images -= len(np.unique(task.pairs[task.counts_image_to_text, 0]))
        captions -= len(np.unique(task.pairs[task.counts_text_to_image, 1]))
    return images, captions


def count_lost_positives(protocol: Protocol, tasks: list[RankingTask]) -> int:
    """The number of the protocol's extended positives that are not in the gallery."""
    if not protocol.extended:
        return 0
    total = sum(int(positives.num_rows) for positives in extended_positives(protocol.name))
    return total - sum(int(task.counts_image_to_text.sum() + task.counts_text_to_image.sum()) for task in tasks)
