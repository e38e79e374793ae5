"""Hard negatives: captions that a model took for an image's own."""

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
from clipstore.pipeline.train.dataset import LiveVectors, Pairs
from clipstore.records import Model
from clipstore.store.gallery import find_gallery
from clipstore.store.layout import Store

Ints = NDArray[np.int64]


def hard_negatives(store: Store, base: Model, split: str, pairs: Pairs, learned: LiveVectors | None) -> Ints:
    """For each row of `pairs`, the rows that stood wrongly among its image's hits (R, any), best first, then -1.

    The hits are the base model's, which are kept in the store; with `learned`, those of the model as it is now.
    Captions of the same photo, and captions word for word like one of its own, are not wrong.
    """
    if learned is None:
        told = evaluate(store, [base.name], split, EvalOptions()).evaluations[0]
        with store.catalog.read() as session:
            return _wrong(session, told["measured_on"]["evaluation_id"], pairs)
    with store.catalog.read() as session:
        found = find_gallery(store, session, base, split, partial=None)
        stamp = gallery_provenance(session, base, split, found)
    measured = rank_gallery(base.name, learned.gallery(found, pairs), stamp, EvalOptions())
    with scratch() as session:
        return _wrong(session, save_evaluation(session, measured), pairs)


def _wrong(session: Session, evaluation_id: int, pairs: Pairs) -> Ints:
    columns = pairs.table.select(["caption_id", "image_id", "caption", "image"])
    session.stage(training_pairs=columns.append_column("place", pa.array(np.arange(columns.num_rows))))
    found = {
        row["image_id"]: row["places"] for row in session.rows("train/hard_negatives", evaluation_id=evaluation_id)
    }
    wrong = np.full((columns.num_rows, max(map(len, found.values()), default=0)), -1, dtype=np.int64)
    for place, image_id in enumerate(columns["image_id"].to_pylist()):
        own = found.get(image_id, [])
        wrong[place, : len(own)] = own
    return wrong
