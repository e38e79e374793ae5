"""The protocol hard-negatives: score each caption of a split and its hard negative with their image."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import VectorError
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.rank import evaluation_row
from clipstore.records import GalleryProvenance, Row
from clipstore.store.gallery import Gallery
from clipstore.store.vectors import EmbeddedItems, bad_row_error

Ids = NDArray[np.int64]
Doubles = NDArray[np.float64]

_BYTES = 3 * (8 + 4) + 8  # of one component of a pair: three vectors, wide and as stored, and a product
_MOST_PAIRS = 4096  # scored at once: more are not faster
_LARGEST = 1e18  # components whose products stay far below the largest float64


@dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """The scores of the pairs of a split.

    Attributes:
        evaluation: the row of `evaluations`, without its id.
        scores: the rows of `hard_scores`, without the id of the evaluation.
    """

    evaluation: Row
    scores: pa.Table


def score_hard_negatives(
    name: str,
    gallery: Gallery,
    provenance: GalleryProvenance,
    pairs: pa.Table,
    options: EvalOptions,
    *,
    excluded_image_ids: Ids,
) -> ScoredPairs:
    """Score the pairs (see "hard_negatives/pairs") of the model `name`, without those of the excluded images.

    A pair without one of its three vectors has no scores.

    Raises:
        VectorError: no pair has all three vectors, or a vector is not finite.
    """
    start = time.perf_counter()
    pairs = pairs.filter(pc.invert(pc.is_in(pairs["image_id"], pa.array(excluded_image_ids))))
    rows = np.stack([_rows(pairs, column, *_side(gallery, column)) for column in pairs.column_names])
    complete = (rows >= 0).all(axis=0)
    if not complete.any():
        message = f"no image of the split has vectors of {name} of a caption and its hard negative: nothing to compare"
        raise VectorError(message)
    scores = np.full((2, pairs.num_rows), np.nan)
    scores[:, complete] = _scores(name, gallery, rows[:, complete], options)
    positive, negative = (pa.array(side, mask=~complete) for side in scores)
    images = len(pc.unique(pairs.filter(pa.array(complete))["image_id"]))
    row = evaluation_row(provenance, options, start) | {"asked_images": images, "scores": 2 * int(complete.sum())}
    return ScoredPairs(
        evaluation=row,
        scores=pairs.drop_columns("image_id")
        .append_column("positive_score", positive)
        .append_column("negative_score", negative),
    )


def save_scores(session: Session, scores: pa.Table, evaluation_id: int) -> None:
    """Write the scores of an evaluation."""
    ids = pa.repeat(pa.scalar(evaluation_id, pa.int64()), scores.num_rows)
    session.stage(staged_hard_scores=scores.append_column("evaluation_id", ids))
    session.run("hard_negatives/add_scores")


def _side(gallery: Gallery, column: str) -> tuple[EmbeddedItems, str]:
    """The items of a column of the pairs, and the column of their ids."""
    return (gallery.images, "image_id") if column == "image_id" else (gallery.texts, "caption_id")


def _rows(pairs: pa.Table, column: str, items: EmbeddedItems, key: str) -> Ids:
    """The row of each item in the table of the gallery; -1: it has no vector."""
    found = pc.index_in(pairs[column], value_set=items.table[key])
    return np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)


def _scores(name: str, gallery: Gallery, rows: Ids, options: EvalOptions) -> Doubles:
    """The scores (2, P) of positives and negatives, for rows (3, P) of image, positive and negative."""
    dim = gallery.images.tower.dim
    size = max(1, min(_MOST_PAIRS, options.memory // (dim * _BYTES)))
    count = rows.shape[1]
    scores = np.empty((2, count))
    sides = (gallery.images, gallery.texts, gallery.texts)
    for start in range(0, count, size):
        part = rows[:, start : start + size]
        image, positive, negative = (_read(items, side) for items, side in zip(sides, part, strict=True))
        scores[0, start : start + size] = dot_products(image, positive)
        scores[1, start : start + size] = dot_products(image, negative)
        options.on_progress(f"{name}: pairs compared", min(start + size, count), count)
    return scores


def _read(items: EmbeddedItems, rows: Ids) -> NDArray[np.float32]:
    values = np.asarray(items.vectors.take(rows)[:], dtype=np.float32)
    valid = (np.abs(values) <= _LARGEST).all(axis=1)  # NaN compares false
    if not valid.all():
        raise bad_row_error(
            items, "image" if "position" in items.table.column_names else "text", rows[np.argmin(valid)]
        )
    return values


def dot_products(left: NDArray[np.float32], right: NDArray[np.float32]) -> Doubles:
    """The dot products (P,) of the rows of two arrays (P, D), in float64.

    The products of float32 values are exact in float64, and they are added in the order of the components: the result
    is the same on every machine, and equal vectors have equal scores.
    """
    total = np.zeros(len(left))
    for column in range(left.shape[1]):
        total += left[:, column].astype(np.float64) * right[:, column]
    return total
