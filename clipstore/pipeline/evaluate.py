"""`clipstore eval`: rank a split's pairs by the stored vectors of a model, and keep ranks and hits in the catalog."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Row, Session
from clipstore.errors import VectorError
from clipstore.pipeline.device import checked_device
from clipstore.pipeline.evaluations import forget
from clipstore.pipeline.models import find_model
from clipstore.pipeline.progress import Progress, silent
from clipstore.pipeline.store import Store, split_id
from clipstore.pipeline.vectors import Gallery, gallery
from clipstore.records import Model

if TYPE_CHECKING:
    from clipstore.ranking import DirectionRanks, Ranks

TOP_K = 10

# What a direction's metrics are called in JSON: named by what is retrieved.
_JSON_NAMES = {"image_to_text": "text_retrieval_", "text_to_image": "image_retrieval_", "both": ""}


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How to evaluate; `memory` in bytes, for the blocks of scores."""

    protocol: str = "standard"
    partial: bool = False
    memory: int = 8 * 2**30
    device: str = "cpu"
    on_progress: Progress = silent


def evaluate(store: Store, names: Iterable[str], split: str, options: EvalOptions) -> list[Row]:
    """Evaluate models (none named: all that have vectors of it) on a split, replacing what was measured before.

    Returns, for each, "model", "split", "protocol", "metrics" and "measured_on", as `clipstore eval --json` has it.

    Raises:
        NotFoundError: a model or the split has no such name.
        VectorError: items have no vectors yet (and not `partial`), or nothing is left to rank.
    """
    with store.catalog.read() as session:
        target = split_id(session, split)
        wanted = list(dict.fromkeys(names))
        wanted = wanted or [row["name"] for row in session.rows("evaluate/models", split_id=target)]
    if not wanted:
        message = f"no model has vectors of {split} yet: run 'clipstore embed --model NAME --split {split}' first"
        raise VectorError(message)
    models = [find_model(store, name) for name in wanted]
    return [_evaluate(store, model, split, options) for model in models]


def _evaluate(store: Store, model: Model, split: str, options: EvalOptions) -> Row:
    # Imported here and not above: asking for an unknown split needs no torch.
    from clipstore.ranking import rank_pairs

    device = checked_device(options.device)
    began = time.perf_counter()
    with store.catalog.read() as session:
        found = gallery(store, session, model, split, partial=options.partial)
        stamp = _stamp(session, model, split, found)
    ranks = rank_pairs(
        found.images.vectors,
        found.texts.vectors,
        found.pairs,
        top_k=TOP_K,
        memory=options.memory,
        device=device,
        on_progress=lambda done, total: options.on_progress(f"{model.name}: images ranked", done, total),
    )
    evaluation = stamp | {
        "partial": options.partial,
        "protocol": options.protocol,
        "seconds": time.perf_counter() - began,
        "peak_memory": _peak_memory(),
        "evaluated_at": datetime.now(UTC),
    }
    with store.catalog.write() as session:
        evaluation["evaluation_id"] = session.rows("evaluate/next_id")[0]["evaluation_id"]
        _keep(session, evaluation, _tables(found, ranks, evaluation))
        return result(session, evaluation["evaluation_id"])


def _keep(session: Session, evaluation: Row, tables: Iterable[tuple[pa.Table, pa.Table]]) -> None:
    """Write an evaluation and the (ranks, hits) of its directions in the place of the former one."""
    former = session.rows("evaluate/former", **{key: evaluation[key] for key in ("model_id", "split_id", "protocol")})
    forget(session, [row["evaluation_id"] for row in former])
    session.stage(staged_evaluation=pa.Table.from_pylist([evaluation]))
    session.run("evaluate/add_evaluation")
    for ranks, hits in tables:
        session.stage(staged_ranks=ranks, staged_hits=hits)
        session.run("evaluate/add_ranks")
        session.run("evaluate/add_hits")


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


def _stamp(session: Session, model: Model, split: str, found: Gallery) -> Row:
    """What an evaluation says it was measured on."""
    images, texts, target = found.images, found.texts, split_id(session, split)
    session.stage(ranked_images=images.table.select(["image_id"]), ranked_captions=texts.table.select(["caption_id"]))
    return {
        "model_id": session.rows("model/find", name=model.name)[0]["model_id"],
        "split_id": target,
        "images": images.table.num_rows,
        "captions": texts.table.num_rows,
        "image_fingerprint": images.tower.fingerprint,
        "text_fingerprint": texts.tower.fingerprint,
        "precision": images.tower.precision,
        "dtype": "/".join(dict.fromkeys(dtype for side in (images, texts) for dtype in side.vectors.dtypes)),
        **found.lacking,
        **session.rows("evaluate/digests", split_id=target)[0],
    }


def _peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count that of the process which started this one, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _tables(found: Gallery, ranks: Ranks, evaluation: Row) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Ranks and hits of each direction of the protocol, with catalog ids for row numbers."""
    images = found.images.table["image_id"].to_numpy()
    captions = found.texts.table["caption_id"].to_numpy()
    yield _direction(ranks.image_to_text, images, captions, evaluation, "image_to_text")
    if evaluation["protocol"] != "paired-rows":
        yield _direction(ranks.text_to_image, captions, images, evaluation, "text_to_image")


def _direction(
    part: DirectionRanks, queries: NDArray[np.int64], candidates: NDArray[np.int64], evaluation: Row, direction: str
) -> tuple[pa.Table, pa.Table]:
    fixed = {"evaluation_id": evaluation["evaluation_id"], "direction": direction}
    row, place = np.nonzero(part.hits >= 0)
    ranks: dict[str, NDArray[Any]] = {
        "query_id": queries[part.query],
        "positive_id": candidates[part.positive],
        "n_greater": part.n_greater,
        "n_equal": part.n_equal,
        "score": part.score,
    }
    hits: dict[str, NDArray[Any]] = {
        "query_id": queries[row],
        "position": (place + 1).astype(np.int32),
        "item_id": candidates[part.hits[row, place]],
        "score": part.hit_scores[row, place],
    }
    return _with(fixed, ranks), _with(fixed, hits)


def _with(fixed: Row, columns: dict[str, NDArray[Any]]) -> pa.Table:
    """Columns, with values that are the same in every row before them."""
    size = len(columns["score"])
    return pa.table({name: pa.repeat(value, size) for name, value in fixed.items()} | columns)
