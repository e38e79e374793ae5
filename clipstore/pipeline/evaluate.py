"""`clipstore eval`: rank a split's pairs by the stored vectors of a model, and keep ranks and hits in the catalog."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.catalog import Row, Session
from clipstore.errors import VectorError
from clipstore.pipeline.evaluations import forget
from clipstore.pipeline.models import find_model
from clipstore.pipeline.store import Store, split_id
from clipstore.pipeline.vectors import Items, advice, embedded_items
from clipstore.records import Model

PROTOCOLS = ("standard", "paired-rows")
TOP_K = 10
DEFAULT_MEMORY = 8 * 2**30

# What a direction's metrics are called in JSON: named by what is retrieved.
_JSON_NAMES = {"image_to_text": "text_retrieval_", "text_to_image": "image_retrieval_", "both": ""}


@dataclass(frozen=True, kw_only=True)
class _Gallery:
    """The items of one evaluation, and what was left out of it."""

    images: Items
    texts: Items
    image_ids: NDArray[np.int64]
    caption_ids: NDArray[np.int64]
    pairs: NDArray[np.int64]
    left_out: tuple[int, int]  # images, captions
    pending: tuple[int, int]


def evaluate(
    store: Store,
    names: Iterable[str],
    split: str,
    *,
    protocol: str = "standard",
    partial: bool = False,
    memory: int = DEFAULT_MEMORY,
    device: str = "cpu",
) -> list[Row]:
    """Evaluate models (none named: all that have vectors) on a split, replacing what was measured before.

    Returns, for each, "model", "split", "protocol", "metrics" and "measured_on", as `clipstore eval --json` has it.

    Raises:
        NotFoundError: a model or the split has no such name.
        VectorError: items have no vectors yet (and not `partial`), or nothing is left to rank.
    """
    with store.catalog.read() as session:
        split_id(session, split)
        wanted = list(dict.fromkeys(names)) or [row["name"] for row in session.rows("evaluate/models")]
    if not wanted:
        message = f"no model has vectors yet: run 'clipstore embed --model NAME --split {split}' first"
        raise VectorError(message)
    models = [find_model(store, name) for name in wanted]
    return [
        _evaluate_one(store, model, split, protocol=protocol, partial=partial, memory=memory, device=device)
        for model in models
    ]


def _evaluate_one(
    store: Store, model: Model, split: str, *, protocol: str, partial: bool, memory: int, device: str
) -> Row:
    from clipstore.ranking import rank_pairs

    began = time.perf_counter()
    with store.catalog.read() as session:
        gallery = _gallery(store, session, model, split, partial=partial)
    ranks = rank_pairs(
        gallery.images.vectors, gallery.texts.vectors, gallery.pairs, top_k=TOP_K, memory=memory, device=device
    )
    directions = {"image_to_text": (ranks.image_to_text, gallery.image_ids, gallery.caption_ids)}
    if protocol != "paired-rows":
        directions["text_to_image"] = (ranks.text_to_image, gallery.caption_ids, gallery.image_ids)
    with store.catalog.write() as session:
        model_id, target = _ids(session, model, split)
        session.stage(ranked_images=pa.table({"image_id": gallery.image_ids}))
        session.stage(ranked_captions=pa.table({"caption_id": gallery.caption_ids}))
        digests = session.rows("evaluate/digests", split_id=target)[0]
        former = session.rows("evaluate/former", model_id=model_id, split_id=target, protocol=protocol)
        forget(session, [row["evaluation_id"] for row in former])
        evaluation = {
            "evaluation_id": session.rows("evaluate/next_id")[0]["evaluation_id"],
            "model_id": model_id,
            "split_id": target,
            "protocol": protocol,
            "partial": partial,
            "seconds": time.perf_counter() - began,
            **digests,
            **_stamp(gallery),
        }
        session.stage(staged_evaluation=pa.Table.from_pylist([evaluation]))
        session.run("evaluate/add_evaluation")
        for direction, (part, queries, candidates) in directions.items():
            fixed = {"evaluation_id": evaluation["evaluation_id"], "direction": direction}
            session.stage(staged_ranks=_ranks_table(part, queries, candidates, fixed))
            session.run("evaluate/add_ranks")
            session.stage(staged_hits=_hits_table(part, queries, candidates, fixed))
            session.run("evaluate/add_hits")
        return result(session, evaluation["evaluation_id"])


def result(session: Session, evaluation_id: int) -> Row:
    """One evaluation as `clipstore eval --json` prints it."""
    told = session.rows("evaluate/result", evaluation_id=evaluation_id)[0]
    metrics = session.rows("evaluate/metrics", evaluation_id=evaluation_id)
    told["evaluated_at"] = told["evaluated_at"].astimezone(UTC).isoformat(timespec="seconds")
    return {
        "model": told.pop("model"),
        "split": told["split"],
        "protocol": told["protocol"],
        "metrics": {f"{_JSON_NAMES[row['direction']]}{row['metric']}": row["value"] for row in metrics},
        "measured_on": told,
    }


def _ids(session: Session, model: Model, split: str) -> tuple[int, int]:
    row = session.row("model/find", name=model.name)
    return int(row["model_id"]) if row else -1, split_id(session, split)


def _gallery(store: Store, session: Session, model: Model, split: str, *, partial: bool) -> _Gallery:
    """The split's images that have a vector, and their captions that have one."""
    images, texts = embedded_items(store, session, model, split)
    pending = (images.pending.num_rows, texts.pending.num_rows)
    if any(pending) and not partial:
        message = (
            f"{pending[0]} images and {pending[1]} captions of {split} have no vectors of {model.name} yet: "
            f"{advice(model, split)}, or evaluate what is there with --partial"
        )
        raise VectorError(message)
    image_ids = images.table["image_id"].to_numpy()
    kept = pc.is_in(texts.table["image_id"], pa.array(image_ids))
    gone_captions = texts.table.filter(pc.invert(kept))
    without_photo = pc.sum(pc.is_in(gone_captions["image_id"], images.left_out["image_id"])).as_py() or 0
    texts = texts.only(kept.to_numpy())
    caption_ids = texts.table["caption_id"].to_numpy()
    if not len(image_ids) or not len(caption_ids):
        message = f"{model.name} has no vectors of an image of {split} and its captions: {advice(model, split)}"
        raise VectorError(message)
    row_of_image = dict(zip(image_ids.tolist(), range(len(image_ids)), strict=True))
    rows = [row_of_image[image] for image in texts.table["image_id"].to_pylist()]
    return _Gallery(
        images=images,
        texts=texts,
        image_ids=image_ids,
        caption_ids=caption_ids,
        pairs=np.stack([np.array(rows, dtype=np.int64), np.arange(len(rows))], axis=1),
        left_out=(images.left_out.num_rows, texts.left_out.num_rows + without_photo),
        pending=(pending[0], pending[1] + gone_captions.num_rows - without_photo),
    )


def _stamp(gallery: _Gallery) -> dict[str, Any]:
    """What an evaluation says it was measured on."""
    dtypes = dict.fromkeys(str(side.vectors.dtype) for side in (gallery.images, gallery.texts))
    return {
        "images": len(gallery.image_ids),
        "captions": len(gallery.caption_ids),
        "left_out_images": gallery.left_out[0],
        "left_out_captions": gallery.left_out[1],
        "pending_images": gallery.pending[0],
        "pending_captions": gallery.pending[1],
        "image_fingerprint": gallery.images.tower.fingerprint,
        "text_fingerprint": gallery.texts.tower.fingerprint,
        "precision": gallery.images.tower.precision,
        "dtype": "/".join(dtypes),
        "peak_memory": _peak_memory(),
        "evaluated_at": datetime.now(UTC),
    }


def _peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _ranks_table(part: Any, queries: NDArray[np.int64], candidates: NDArray[np.int64], fixed: Row) -> pa.Table:
    size = len(part.query)
    return pa.table(
        {name: pa.repeat(value, size) for name, value in fixed.items()}
        | {
            "query_id": queries[part.query],
            "positive_id": candidates[part.positive],
            "n_greater": part.n_greater,
            "n_equal": part.n_equal,
            "score": part.score,
        }
    )


def _hits_table(part: Any, queries: NDArray[np.int64], candidates: NDArray[np.int64], fixed: Row) -> pa.Table:
    row, place = np.nonzero(part.hits >= 0)
    return pa.table(
        {name: pa.repeat(value, len(row)) for name, value in fixed.items()}
        | {
            "query_id": queries[row],
            "position": (place + 1).astype(np.int32),
            "item_id": candidates[part.hits[row, place]],
            "score": part.hit_scores[row, place],
        }
    )
