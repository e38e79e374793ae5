"""`clipstore eval`: rank a split by the stored vectors of models, and store ranks and hits in the catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.datasets.extended import all_positives
from clipstore.errors import VectorError
from clipstore.pipeline.evaluate.hard_negatives import save_scores, score_hard_negatives
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.provenance import check_gallery_unchanged, gallery_provenance, seen_images
from clipstore.pipeline.evaluate.rank import rank_gallery
from clipstore.pipeline.evaluate.rerank import Reranking, check_name_is_free, find_reranking
from clipstore.pipeline.evaluate.save import add_evaluation, save_evaluation
from clipstore.pipeline.evaluate.worker_pool import WorkerPool
from clipstore.pipeline.evaluate.workers import rank_workers
from clipstore.protocols import PROTOCOLS
from clipstore.records import GalleryProvenance, Model, Row
from clipstore.store.evaluations import read_evaluation
from clipstore.store.gallery import Gallery, find_gallery, prepare_models
from clipstore.store.hard_negatives import check_hard_negatives, refuse_hard_negatives
from clipstore.store.layout import Store, split_id
from clipstore.store.recovery import save_records
from clipstore.store.vectors import EmbeddedItems, StoredRows
from clipstore.waiting import wait_without_limit

Ids = NDArray[np.int64]

_SHARED_BUDGET_DIVISOR = (
    4  # vectors that several models share stay in memory if they take less than this part of the budget
)


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The result of `evaluate`.

    Attributes:
        evaluations: each as `clipstore eval --json` prints it.
        skipped: "model" and "reason" of each model that was not evaluated.
        warnings: lines about vectors that may be wrong.
    """

    evaluations: list[Row]
    skipped: list[Row]
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class _ModelGallery:
    """The gallery of a model.

    Attributes:
        provenance: read with the gallery: the result is stored if the catalog has the same one then.
        seen: ids of its images that the model was trained on.
        excluded_image_ids: ids of its images that are not queries.
        pairs: the captions with hard negatives of the split; None: they are not compared.
        reranking: how it is reranked; None: it is not.
    """

    model: Model
    gallery: Gallery
    provenance: GalleryProvenance
    seen: Ids
    excluded_image_ids: Ids
    pairs: pa.Table | None
    reranking: Reranking | None


def evaluate(store: Store, names: Iterable[str], split: str, options: EvalOptions) -> EvalResult:
    """Evaluate models on a split and store the results, which replace those of equal evaluations.

    Without names, every model with vectors of the split is evaluated, and models with incomplete vectors are skipped;
    with a reranker it is the reranker itself.

    Raises:
        NotFoundError: there is no such model or split.
        ModelError: the reranker has no matching head.
        VectorError: items of a named model, or of every model, have no vectors yet (unless `partial`), nothing is left
            to rank, the split does not fit the protocol, the memory is too small, or pairs to rerank have no score.
        ShardError: a shard is damaged, or changed during the evaluation.
        MissingExtraError, ClusterError: Ray is not installed, its cluster does not answer, or workers were lost.
        CatalogError: the catalog cannot be written now. A finished evaluation waits until it is writable.
    """
    store.catalog.check_writable()  # ranking can take minutes: report a busy catalog first
    with rank_workers(options.ray, options.ray_cpus) if options.ray else nullcontext() as pool:
        return _evaluate(store, names, split, options, pool)


def _evaluate(
    store: Store, names: Iterable[str], split: str, options: EvalOptions, pool: WorkerPool | None
) -> EvalResult:
    names = list(names) or ([options.rerank] if options.rerank else [])
    galleries, skipped = _find_galleries(store, names, split, options)
    limit = 0 if pool is not None else options.memory // _SHARED_BUDGET_DIVISOR  # workers read the shards
    vectors = _SharedVectors([entry.gallery for entry in galleries], limit)
    with wait_without_limit():
        evaluations = [
            _evaluate_model(store, split, entry, vectors, options, pool=pool, is_last=entry is galleries[-1])
            for entry in galleries
        ]
    warnings = [line for entry in galleries for line in entry.gallery.images.warnings]
    return EvalResult(evaluations=evaluations, skipped=skipped, warnings=warnings)


def _find_galleries(
    store: Store, names: Iterable[str], split: str, options: EvalOptions
) -> tuple[list[_ModelGallery], list[Row]]:
    """Returns the galleries of all models and the skipped models.

    All galleries have the same queries, so that their metrics are comparable.
    """
    with store.catalog.read() as session:
        pairs = _hard_pairs(session, split, options)
        prepared, skipped = prepare_models(
            store,
            session,
            names,
            split,
            lambda model: find_gallery(
                store, session, model, split, partial=options.partial, first_captions=options.first_captions
            ),
        )
        models = [model for model, _ in prepared]
        trained = models if options.unseen else []
        galleries = [
            _ModelGallery(
                model=model,
                gallery=gallery,
                provenance=gallery_provenance(session, model, split, gallery),
                seen=seen_images(session, [model], gallery),
                excluded_image_ids=seen_images(session, trained, gallery),
                pairs=pairs,
                reranking=find_reranking(store, session, model, split, gallery, options),
            )
            for model, gallery in prepared
        ]
    if any(len(entry.excluded_image_ids) == entry.gallery.images.table.num_rows for entry in galleries):
        verb = "was" if len(models) == 1 else "were"
        message = (
            f"{' and '.join(model.name for model in models)} {verb} trained on every image of {split}: "
            "no image is unseen; omit --unseen"
        )
        raise VectorError(message)
    return galleries, skipped


def _hard_pairs(session: Session, split: str, options: EvalOptions) -> pa.Table | None:
    """The captions of a split with hard negatives, if the protocol compares these.

    Raises:
        VectorError: the split does not fit the protocol.
    """
    if not PROTOCOLS[options.protocol].hard_negatives:
        refuse_hard_negatives(session, split)
        return None
    check_hard_negatives(session, split)
    return session.table("hard_negatives/pairs", split_id=split_id(session, split))


def _evaluate_model(
    store: Store,
    split: str,
    entry: _ModelGallery,
    vectors: _SharedVectors,
    options: EvalOptions,
    *,
    pool: WorkerPool | None,
    is_last: bool,
) -> Row:
    """Rank one model's gallery and store the evaluation, unless the catalog changed during the evaluation.

    The last one also stores what all models of the split share: its extra positives.
    """
    model, gallery, provenance = entry.model, vectors.load(entry.gallery), entry.provenance
    save = _score(entry, gallery, options) if entry.pairs else _rank(store, entry, gallery, options, pool)
    with store.catalog.write() as session:
        check_gallery_unchanged(session, model, split, gallery, provenance)
        evaluation = read_evaluation(session, save(session))
        save_records(session, store, "evaluations")
        if is_last:
            save_extra_positives(session, split)
        return evaluation


def _rank(
    store: Store, entry: _ModelGallery, gallery: Gallery, options: EvalOptions, pool: WorkerPool | None
) -> Callable[[Session], int]:
    """Rank a model's gallery; returns a function that writes the evaluation and returns its id."""
    name, reranking = entry.model.name, entry.reranking and entry.reranking.with_scores(store)
    excluded = entry.excluded_image_ids
    ranked = rank_gallery(
        name, gallery, entry.provenance, options, excluded_image_ids=excluded, reranking=reranking, pool=pool
    )

    def save(session: Session) -> int:
        if reranking:
            check_name_is_free(session, name, reranking)
        return save_evaluation(session, replace(ranked, seen=entry.seen))

    return save


def _score(entry: _ModelGallery, gallery: Gallery, options: EvalOptions) -> Callable[[Session], int]:
    """The same for the captions with hard negatives."""
    scored = score_hard_negatives(
        entry.model.name, gallery, entry.provenance, entry.pairs, options, excluded_image_ids=entry.excluded_image_ids
    )

    def save(session: Session) -> int:
        evaluation_id = add_evaluation(session, scored.evaluation, entry.seen)
        save_scores(session, scored.scores, evaluation_id)
        return evaluation_id

    return save


def save_extra_positives(session: Session, split: str) -> None:
    """Store the pairs of a COCO split that are positives by eccv-caption and not by the dataset."""
    target_split_id = split_id(session, split)
    positives = all_positives() if session.row("evaluate/is_coco", split_id=target_split_id) else None
    if positives is not None:
        session.stage(known_positives=positives)
        session.run("evaluate/delete_extra_positives", split_id=target_split_id)
        session.run("evaluate/add_extra_positives", split_id=target_split_id)


class _SharedVectors:
    """Reads the vectors that several galleries share once, and holds them until the last of these galleries."""

    def __init__(self, galleries: list[Gallery], limit: int) -> None:
        self._uses = Counter(_key(items) for gallery in galleries for items in (gallery.images, gallery.texts))
        self._rows: dict[tuple[str, int], StoredRows] = {}
        self._limit = limit  # bytes of one tower's vectors

    def load(self, gallery: Gallery) -> Gallery:
        """The gallery, with shared vectors in memory. Call it once for each gallery, in order."""
        return replace(gallery, images=self._load(gallery.images), texts=self._load(gallery.texts))

    def _load(self, items: EmbeddedItems) -> EmbeddedItems:
        key = _key(items)
        self._uses[key] -= 1
        if key in self._rows:
            return replace(items, vectors=self._rows[key] if self._uses[key] else self._rows.pop(key))
        size = len(items.vectors.rows) * items.vectors.dim * items.vectors.dtype.itemsize
        if not self._uses[key] or size > self._limit:
            return items
        self._rows[key] = items.vectors.read()
        return replace(items, vectors=self._rows[key])


def _key(items: EmbeddedItems) -> tuple[str, int]:
    return items.tower.fingerprint, len(items.vectors.rows)
