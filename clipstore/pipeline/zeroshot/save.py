"""Save a classification with its ranks, hits and scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.records import Row
from clipstore.store.classifications import delete_classifications

if TYPE_CHECKING:
    from clipstore.ranking.classes import ClassRanks

Ids = NDArray[np.int64]

_KEY = ("model_id", "split_id", "labels", "templates_digest")  # at most one classification is stored for each


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """The scores of N images for C classes, and the ranks of the P pairs of an image and its class.

    Attributes:
        image_ids, category_ids: catalog ids, (N,) and (C,).
        image, label: (P,), row of the image and place of the class.
        ranks: the ranks of the pairs.
        top: (N, K), places of the first classes.
        scores: (N, C).
    """

    image_ids: Ids
    category_ids: Ids
    image: Ids
    label: Ids
    ranks: ClassRanks
    top: Ids
    scores: NDArray[np.float64]


def save_classification(session: Session, classification: Row, scored: ScoredImages) -> int:
    """Write a classification, and delete the one that it replaces. Returns its id."""
    replaced = session.rows("zeroshot/replaced", **{key: classification[key] for key in _KEY})
    delete_classifications(session, [row["classification_id"] for row in replaced])
    number = int(session.rows("zeroshot/next_id")[0]["classification_id"])
    is_multi = classification["labels"] == "multi"
    session.stage(
        staged_classification=pa.Table.from_pylist([classification | {"classification_id": number}]),
        staged_ranks=_ranks(scored, number, of_images=is_multi),
        staged_hits=_hits(scored, number),
    )
    session.run("zeroshot/add_classification")
    session.run("zeroshot/add_ranks")
    session.run("zeroshot/add_hits")
    if is_multi:  # the intervals of map need all scores; those of other metrics only the ranks
        session.stage(staged_scores=_scores(scored, number))
        session.run("zeroshot/add_scores")
    return number


def _ranks(scored: ScoredImages, number: int, *, of_images: bool) -> pa.Table:
    ranks, size = scored.ranks, len(scored.image)
    columns: dict[str, Any] = {
        "classification_id": pa.repeat(number, size),
        "image_id": scored.image_ids[scored.image],
        "category_id": scored.category_ids[scored.label],
        "classes_greater": ranks.classes_greater.astype(np.int32),
        "classes_equal": ranks.classes_equal.astype(np.int32),
        "images_greater": ranks.images_greater if of_images else pa.nulls(size, pa.int64()),
        "images_equal": ranks.images_equal if of_images else pa.nulls(size, pa.int64()),
        "score": ranks.score,
    }
    return pa.table(columns)


def _hits(scored: ScoredImages, number: int) -> pa.Table:
    images, k = scored.top.shape
    rows = np.repeat(np.arange(images), k)
    return pa.table(
        {
            "classification_id": pa.repeat(number, images * k),
            "image_id": scored.image_ids[rows],
            "position": np.tile(np.arange(1, k + 1, dtype=np.int32), images),
            "category_id": scored.category_ids[scored.top.ravel()],
            "score": scored.scores[rows, scored.top.ravel()],
        }
    )


def _scores(scored: ScoredImages, number: int) -> pa.Table:
    images, classes = scored.scores.shape
    offsets = pa.array(np.arange(0, images * classes + 1, classes, dtype=np.int32))
    lists = pa.ListArray.from_arrays(offsets, pa.array(scored.scores.ravel()))
    return pa.table({"classification_id": pa.repeat(number, images), "image_id": scored.image_ids, "scores": lists})
