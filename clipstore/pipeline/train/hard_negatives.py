"""Hard negatives: captions that a model ranks among the hits of an image they do not belong to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session, scratch
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.evaluate.rank import rank_gallery
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.evaluate.save import save_evaluation
from clipstore.pipeline.train.dataset import TrainingPairs
from clipstore.pipeline.train.job import TrainJob
from clipstore.pipeline.train.live_vectors import LiveVectors
from clipstore.statements import RANKS_SCHEMA
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store

Ints = NDArray[np.int64]


def base_hard_negatives(store: Store, job: TrainJob, pairs: TrainingPairs) -> Ints:
    """Hard negatives of the base model, from its stored evaluation of the training split: see `_negatives`."""
    evaluation = evaluate(store, [job.base.name], job.training.split, EvalOptions()).evaluations[0]
    with store.catalog.read() as session:
        return _negatives(session, evaluation["measured_on"]["evaluation_id"], pairs)


def live_hard_negatives(store: Store, job: TrainJob, pairs: TrainingPairs, live: LiveVectors) -> Ints:
    """Hard negatives of the current weights: see `_negatives`."""
    split = job.training.split
    with store.catalog.read() as session:
        stored = find_gallery(store, session, job.base, split, partial=None)
        provenance = gallery_provenance(session, job.base, split, stored)
    ranked = rank_gallery(job.base.name, live.gallery(stored, pairs), provenance, EvalOptions())
    with scratch(RANKS_SCHEMA) as session:
        return _negatives(session, save_evaluation(session, ranked), pairs)


def _negatives(session: Session, evaluation_id: int, pairs: TrainingPairs) -> Ints:
    """For each row of `pairs`, the rows that are incorrect hits of its image, best first: (R, any), padded with -1.

    Captions of an image with the same bytes, and captions equal to one of the image's own, are not incorrect.
    """
    columns = pairs.table.select(["caption_id", "image_id", "caption_content", "image_content"])
    session.stage(training_pairs=columns.append_column("row", pa.array(np.arange(columns.num_rows))))
    hits = session.rows("train/hard_negatives", evaluation_id=evaluation_id)
    by_image = {hit["image_id"]: hit["rows"] for hit in hits}
    negatives = np.full((columns.num_rows, max(map(len, by_image.values()), default=0)), -1, dtype=np.int64)
    for row, image_id in enumerate(columns["image_id"].to_pylist()):
        rows = by_image.get(image_id, [])
        negatives[row, : len(rows)] = rows
    return negatives
