"""Save an evaluation with its ranks and hits, and compute metrics from them by SQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session, scratch
from clipstore.pipeline.evaluate.rank import RankedGallery
from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.statements import METRICS_SCHEMA
from clipstore.store.evaluations import delete_evaluations, read_metrics

if TYPE_CHECKING:
    from clipstore.ranking import DirectionRanks

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

# At most one evaluation is stored for each.
_KEY = (
    *("model_id", "split_id", "protocol", "caption_set", "unseen"),
    *("reranker", "rerank_top", "rerank_weight"),
)


def save_evaluation(session: Session, ranked: RankedGallery) -> int:
    """Write an evaluation with its ranks and hits, and delete the one that it replaces. Returns its id."""
    evaluation_id = add_evaluation(session, ranked.evaluation, ranked.seen)
    for ranks, hits in _tables(ranked, evaluation_id):
        session.stage(staged_ranks=ranks, staged_hits=hits)
        session.run("evaluate/add_ranks")
        session.run("evaluate/add_hits")
    return evaluation_id


def add_evaluation(session: Session, evaluation: Row, seen: Ids) -> int:
    """Write the row of an evaluation and its seen images, and delete the one that it replaces. Returns its id."""
    replaced = session.rows("evaluate/replaced", **{key: evaluation[key] for key in _KEY})
    delete_evaluations(session, [row["evaluation_id"] for row in replaced])
    evaluation_id = int(session.rows("evaluate/next_id")[0]["evaluation_id"])
    session.stage(staged_evaluation=pa.Table.from_pylist([evaluation | {"evaluation_id": evaluation_id}]))
    session.run("evaluate/add_evaluation")
    if not evaluation["unseen"]:  # otherwise no query is of a seen image
        ids = pa.repeat(evaluation_id, len(seen))
        session.stage(staged_seen_images=pa.table({"evaluation_id": ids, "image_id": seen}))
        session.run("evaluate/add_seen_images")
    return evaluation_id


def compute_metrics(ranked: RankedGallery) -> dict[str, float]:
    """The metrics of ranks that are not stored, by their names in JSON: the same SQL on a catalog in memory."""
    with scratch(METRICS_SCHEMA) as session:
        return read_metrics(session, save_evaluation(session, ranked))


def _tables(ranked: RankedGallery, evaluation_id: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The ranks and the hits of each task and direction, with catalog ids instead of row numbers."""
    gallery, directions = ranked.gallery, PROTOCOLS[ranked.evaluation["protocol"]].directions
    for task, ranks in zip(ranked.tasks, ranked.ranks, strict=True):
        images = gallery.images.table["image_id"].to_numpy()[task.images]
        captions = gallery.texts.table["caption_id"].to_numpy()[task.captions]
        for direction in directions:
            constants = {"evaluation_id": evaluation_id, "direction": direction}
            if direction == "image_to_text":
                yield _direction_tables(ranks.image_to_text, task.counts_image_to_text, images, captions, constants)
            else:
                yield _direction_tables(ranks.text_to_image, task.counts_text_to_image, captions, images, constants)


def _direction_tables(
    ranks: DirectionRanks, mask: Mask, queries: Ids, candidates: Ids, constants: Row
) -> tuple[pa.Table, pa.Table]:
    """The ranks of the pairs where `mask` (P,) is true, and the hits of their queries.

    `queries` (N,) and `candidates` (M,) are the catalog ids of the rows.
    """
    is_query = np.zeros(len(queries), dtype=bool)
    is_query[ranks.query[mask]] = True
    row, position = np.nonzero((ranks.hits >= 0) & is_query[:, None])
    rank_columns: dict[str, NDArray[Any]] = {
        "query_id": queries[ranks.query[mask]],
        "positive_id": candidates[ranks.positive[mask]],
        "n_greater": ranks.n_greater[mask],
        "n_equal": ranks.n_equal[mask],
        "score": ranks.score[mask],
    }
    hit_columns: dict[str, NDArray[Any]] = {
        "query_id": queries[row],
        "position": (position + 1).astype(np.int32),
        "item_id": candidates[ranks.hits[row, position]],
        "score": ranks.hit_scores[row, position],
    }
    return _table(constants, rank_columns), _table(constants, hit_columns)


def _table(constants: Row, columns: dict[str, NDArray[Any]]) -> pa.Table:
    """A table of constant columns, then `columns`."""
    size = len(columns["score"])
    return pa.table({name: pa.repeat(value, size) for name, value in constants.items()} | columns)
