"""`clipstore eval`: rank a split's pairs by the stored vectors of a model, and keep ranks and hits in the catalog."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore import choices
from clipstore.catalog import Session, scratch
from clipstore.datasets.extended import all_positives
from clipstore.device import checked_device
from clipstore.errors import VectorError
from clipstore.pipeline.evaluate.protocols import (
    FIRST,
    Mask,
    Task,
    check_queries,
    lost_positives,
    restrict_queries,
    tasks,
    without_positive,
)
from clipstore.progress import Progress, no_progress
from clipstore.records import Model, Row
from clipstore.store.evaluations import delete_evaluations, read_evaluation, read_metrics
from clipstore.store.layout import Store, split_id
from clipstore.store.models import current_towers
from clipstore.store.vectors import EmbeddedItems, Gallery, StoredRows, bad_row_error, find_gallery, prepare_models
from clipstore.waiting import wait_without_limit

if TYPE_CHECKING:
    from clipstore.ranking import DirectionRanks, Ranks

Ids = NDArray[np.int64]

TOP_K = 10

_SHARED = 4  # vectors that several models share are kept in memory where they take less than this part of the budget


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How to evaluate.

    `captions` is "all", "first5" or None: as the protocol has it; `memory` in bytes; `screen` as `rank_pairs` has it;
    `unseen`: only images that none of the models evaluated together was trained on ask, and captions of them.
    """

    protocol: choices.Protocol = "standard"
    captions: choices.Captions | None = None
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str = "cpu"
    screen: choices.Screen = "auto"
    unseen: bool = False
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)

    @property
    def caption_set(self) -> str:
        """Which captions stand in the gallery: "all" or "first5"."""
        return self.captions or choices.PROTOCOLS[self.protocol]


@dataclass(frozen=True, kw_only=True)
class RankedGallery:
    """The ranks of a gallery: those of each task that its protocol asked, and the row of `evaluations` that says so.

    `seen` has the ids of the gallery's images that the model was trained on.
    """

    found: Gallery
    asked: list[Task]
    ranked: list[Ranks]
    evaluation: Row
    seen: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """Evaluations as `clipstore eval --json` has them, models that were not evaluated ("model" and "reason"), and what
    is doubtful about the vectors, a line each.
    """

    evaluations: list[Row]
    skipped: list[Row]
    warnings: list[str]


def evaluate(store: Store, names: Iterable[str], split: str, options: EvalOptions) -> EvalResult:
    """Evaluate models on a split, replacing what was measured before.

    With none named, all that have vectors of it; those of which some are missing are skipped. Each evaluation has
    "model", "split", "protocol", "metrics" and "measured_on".

    Raises:
        NotFoundError: a model or the split has no such name.
        VectorError: items have no vectors yet (and not `partial`) for a model named or for any, nothing is left to
            rank, the split does not fit the protocol, or the memory is too small.
        ShardError: a shard cannot be read, is damaged, or changed meanwhile.
        CatalogError: the catalog cannot be written. A result that is complete waits until it can.
    """
    store.catalog.check_writable()  # ranking can take minutes: a busy catalog is reported before
    first = FIRST if options.caption_set == "first5" else None
    with store.catalog.read() as session:
        ready, skipped = prepare_models(
            store,
            session,
            names,
            split,
            lambda model: find_gallery(store, session, model, split, partial=options.partial, first=first),
        )
        models, found = [model for model, _ in ready], [one for _, one in ready]
        # One set of queries for all models, so that their numbers can stand in one table.
        silent = [_seen(session, models if options.unseen else [], one) for one in found]
    for one, ids in zip(found, silent, strict=True):
        if len(ids) == one.images.table.num_rows:
            named = " and ".join(model.name for model in models)
            verb = "was" if len(models) == 1 else "were"
            message = f"{named} {verb} trained on every image of {split}: nothing in it is unseen"
            raise VectorError(message)
    # Each is let go after its turn: what models share is read once.
    shared: dict[tuple[str, int], StoredRows] = {}
    uses = Counter(_key(items) for one in found for items in (one.images, one.texts))
    told = []
    with wait_without_limit():
        for model, one, ids in zip(models, found, silent, strict=True):
            read = replace(
                one,
                images=_read_once(one.images, uses, shared, options),
                texts=_read_once(one.texts, uses, shared, options),
            )
            told.append(_evaluate(store, model, split, read, options, ids))
        with store.catalog.write() as session:
            _note_extra_positives(session, split)
    warnings = [line for one in found for line in one.images.warnings]
    return EvalResult(evaluations=told, skipped=skipped, warnings=warnings)


def _note_extra_positives(session: Session, split: str) -> None:
    """Write down which pairs of a split are right though its data set does not say so, as far as eccv-caption knows."""
    target = split_id(session, split)
    known = all_positives() if session.row("evaluate/is_coco", split_id=target) else None
    if known is not None:
        session.stage(known_positives=known)
        session.run("evaluate/remove_extra_positives", split_id=target)
        session.run("evaluate/add_extra_positives", split_id=target)


def _key(items: EmbeddedItems) -> tuple[str, int]:
    return items.tower.fingerprint, len(items.vectors.rows)


def _read_once(
    items: EmbeddedItems,
    uses: Counter[tuple[str, int]],
    shared: dict[tuple[str, int], StoredRows],
    options: EvalOptions,
) -> EmbeddedItems:
    """The items, with their vectors in memory where a later model has the same ones and they are small enough."""
    key = _key(items)
    uses[key] -= 1
    if key in shared:
        return replace(items, vectors=shared.pop(key) if not uses[key] else shared[key])
    size = len(items.vectors.rows) * items.vectors.dim * items.vectors.dtype.itemsize
    if not uses[key] or size > options.memory // _SHARED:
        return items
    shared[key] = items.vectors.read()
    return replace(items, vectors=shared[key])


def _evaluate(store: Store, model: Model, split: str, found: Gallery, options: EvalOptions, silent: Ids) -> Row:
    with store.catalog.read() as session:
        stamp = gallery_provenance(session, model, split, found)
        seen = _seen(session, [model], found)
    measured = rank_gallery(model.name, found, stamp, options, silent=silent)
    with store.catalog.write() as session:
        _check_unchanged(session, model, split, found, stamp)
        return read_evaluation(session, save_evaluation(session, replace(measured, seen=seen)))


def _check_unchanged(session: Session, model: Model, split: str, found: Gallery, stamp: Row) -> None:
    """Refuse to store ranks of a split or model that another process changed while they were computed.

    Raises:
        NotFoundError: the split is gone.
        VectorError: the split, or the model's vectors, are no longer what was ranked.
    """
    row = session.row("model/find", name=model.name)
    now = gallery_provenance(session, model, split, found) if row else {}
    towers = current_towers(session, row["model_id"]) if row else ()
    same = [tower.fingerprint for tower in towers] == [stamp["image_fingerprint"], stamp["text_fingerprint"]]
    if not same or any(now[key] != stamp[key] for key in ("model_id", "split_id", "split_digest", "gallery_digest")):
        message = f"{split} or {model.name} changed while it was ranked; nothing was stored: run the same command again"
        raise VectorError(message)


def rank_gallery(
    name: str, found: Gallery, stamp: Row, options: EvalOptions, *, silent: Ids | None = None
) -> RankedGallery:
    """Rank the pairs of a gallery as a protocol asks; `name` is the model's, `stamp` from `gallery_provenance`.

    The images whose ids are in `silent`, and captions of them, stand in the gallery and do not ask.

    Raises:
        VectorError: the gallery does not fit the protocol, a vector is not finite, or the memory is too small.
    """
    device = checked_device(options.device)
    began = time.perf_counter()
    asked = tasks(options.protocol, found)
    no_image_positive, no_caption_positive = without_positive(found, asked)
    lost = lost_positives(options.protocol, asked)
    asking = ~np.isin(found.images.table["image_id"].to_numpy(), [] if silent is None else silent)
    asked = [restrict_queries(task, found, asking) for task in asked]
    check_queries(options.protocol, asked, partial=options.partial)
    ranked = [_rank(name, found, task, options, device, number) for number, task in enumerate(asked, 1)]
    evaluation = stamp | {
        "unseen": options.unseen,
        "asked_images": found.images.table.num_rows - without_positive(found, asked)[0],
        "partial": options.partial,
        "protocol": options.protocol,
        "caption_set": options.caption_set,
        "images_without_positive": no_image_positive,
        "captions_without_positive": no_caption_positive,
        "lost_positives": lost,
        "screen": ranked[0].screen,
        "rechecked": sum(ranks.rechecked for ranks in ranked),
        "scores": sum(len(task.images) * len(task.captions) for task in asked),
        "seconds": time.perf_counter() - began,
        "peak_memory": peak_memory(),
        "evaluated_at": datetime.now(UTC),
    }
    return RankedGallery(found=found, asked=asked, ranked=ranked, evaluation=evaluation)


def _seen(session: Session, models: Iterable[Model], found: Gallery) -> Ids:
    """The ids of the gallery's images that one of the models was trained on."""
    ids = [row["model_id"] for model in models if (row := session.row("model/find", name=model.name))]
    session.stage(ranked_images=found.images.table.select(["image_id"]))
    return np.asarray(session.table("evaluate/seen_images", models=ids)["image_id"].to_numpy())


def compute_metrics(measured: RankedGallery) -> dict[str, float]:
    """The metrics of ranks that are kept nowhere, by their names in JSON: the same SQL, on a catalog in memory."""
    with scratch() as session:
        return read_metrics(session, save_evaluation(session, measured))


def _rank(name: str, found: Gallery, task: Task, options: EvalOptions, device: str, number: int) -> Ranks:
    # Imported here and not above: asking for an unknown split needs no torch.
    from clipstore.ranking import BadRowError, rank_pairs

    images, texts = found.images.at(task.images), found.texts.at(task.captions)
    what = f"{name}: captions ranked" + (f", fold {number}" if options.protocol == "coco-1k" else "")
    try:
        return rank_pairs(
            images.vectors,
            texts.vectors,
            task.pairs,
            top_k=TOP_K,
            memory=options.memory,
            device=device,
            screen=options.screen,
            on_progress=lambda done, total: options.on_progress(what, done, total),
        )
    except BadRowError as error:
        raise bad_row_error(images if error.side == "image" else texts, error) from error


def save_evaluation(session: Session, measured: RankedGallery) -> int:
    """Write an evaluation with its ranks and hits in the place of the former one; its id."""
    evaluation = measured.evaluation
    keys = ("model_id", "split_id", "protocol", "caption_set", "unseen")
    former = session.rows("evaluate/replaced", **{key: evaluation[key] for key in keys})
    delete_evaluations(session, [row["evaluation_id"] for row in former])
    evaluation_id = int(session.rows("evaluate/next_id")[0]["evaluation_id"])
    session.stage(staged_evaluation=pa.Table.from_pylist([evaluation | {"evaluation_id": evaluation_id}]))
    session.run("evaluate/add_evaluation")
    if not evaluation["unseen"]:  # else all queries are unseen, and there is nothing to tell apart
        session.stage(
            staged_seen_images=pa.table(
                {"evaluation_id": pa.repeat(evaluation_id, len(measured.seen)), "image_id": measured.seen}
            )
        )
        session.run("evaluate/add_seen_images")
    for ranks, hits in _tables(measured, evaluation_id):
        session.stage(staged_ranks=ranks, staged_hits=hits)
        session.run("evaluate/add_ranks")
        session.run("evaluate/add_hits")
    return evaluation_id


def gallery_provenance(session: Session, model: Model, split: str, found: Gallery) -> Row:
    """What an evaluation says it was measured on."""
    images, texts, target = found.images, found.texts, split_id(session, split)
    model_id = session.rows("model/find", name=model.name)[0]["model_id"]
    told = session.rows("model/training_images", model_id=model_id)[0]["training_images"]
    session.stage(ranked_images=images.table.select(["image_id"]), ranked_captions=texts.table.select(["caption_id"]))
    return {
        "model_id": model_id,
        "split_id": target,
        "images": images.table.num_rows,
        "captions": texts.table.num_rows,
        "image_fingerprint": images.tower.fingerprint,
        "text_fingerprint": texts.tower.fingerprint,
        "precision": images.tower.precision,
        "dtype": "/".join(dict.fromkeys(dtype for side in (images, texts) for dtype in side.vectors.dtypes)),
        **found.lacking,
        **session.rows("evaluate/digests", split_id=target)[0],
        "seen_images": len(_seen(session, [model], found)) if told else None,
    }


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count that of the process which started this one, too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _tables(measured: RankedGallery, evaluation_id: int) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Ranks and hits of each direction of the protocol, with catalog ids for row numbers."""
    found = measured.found
    for task, ranks in zip(measured.asked, measured.ranked, strict=True):
        images = found.images.table["image_id"].to_numpy()[task.images]
        captions = found.texts.table["caption_id"].to_numpy()[task.captions]
        fixed = {"evaluation_id": evaluation_id, "direction": "image_to_text"}
        yield _direction(ranks.image_to_text, task.from_image, images, captions, fixed)
        if measured.evaluation["protocol"] != "paired-rows":
            fixed = fixed | {"direction": "text_to_image"}
            yield _direction(ranks.text_to_image, task.from_caption, captions, images, fixed)


def _direction(
    part: DirectionRanks, kept: Mask, queries: Ids, candidates: Ids, fixed: Row
) -> tuple[pa.Table, pa.Table]:
    """The ranks of the pairs that are `kept`, and the hits of their queries."""
    asked = np.zeros(len(queries), dtype=bool)
    asked[part.query[kept]] = True
    row, place = np.nonzero((part.hits >= 0) & asked[:, None])
    ranks: dict[str, NDArray[Any]] = {
        "query_id": queries[part.query[kept]],
        "positive_id": candidates[part.positive[kept]],
        "n_greater": part.n_greater[kept],
        "n_equal": part.n_equal[kept],
        "score": part.score[kept],
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
