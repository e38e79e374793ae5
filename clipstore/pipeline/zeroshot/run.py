"""`clipstore zeroshot`: score the images of a split for its classes, and store ranks and hits in the catalog."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from clipstore.device import checked_device
from clipstore.errors import VectorError
from clipstore.pipeline.zeroshot.class_vectors import ClassVectors, class_vectors
from clipstore.pipeline.zeroshot.images import ModelImages, check_images_unchanged, find_images
from clipstore.pipeline.zeroshot.labels import SplitLabels, split_labels
from clipstore.pipeline.zeroshot.options import ZeroShotOptions
from clipstore.pipeline.zeroshot.save import ScoredImages, save_classification
from clipstore.pipeline.zeroshot.templates import templates_digest
from clipstore.records import Row
from clipstore.store.classifications import read_classification
from clipstore.store.gallery import prepare_models
from clipstore.store.layout import Store, split_id
from clipstore.store.recovery import save_records
from clipstore.store.vectors import EmbeddedItems, bad_row_error
from clipstore.waiting import wait_without_limit

_BLOCK = 4096  # image vectors that are read at once
_CELL_BYTES = 32  # of a score, and of what is computed from it at the same time
_TOP = 5  # classes stored of each image


@dataclass(frozen=True, kw_only=True)
class ZeroShotResult:
    """The result of `zeroshot`.

    Attributes:
        classifications: each as `clipstore zeroshot --json` prints it.
        skipped: "model" and "reason" of each model that was not used.
        warnings: lines about labels, or about vectors that may be wrong.
    """

    classifications: list[Row]
    skipped: list[Row]
    warnings: list[str]


def zeroshot(store: Store, names: Iterable[str], split: str, options: ZeroShotOptions) -> ZeroShotResult:
    """Classify the images of a split with models and store the results, which replace those with equal options.

    Without names, every model with vectors of the split is used, and models with incomplete vectors are skipped.

    Raises:
        NotFoundError: there is no such model or split.
        DatasetError: the split has no classes, or they do not fit the options (see `split_labels`).
        OptionError: a k is larger than the number of classes.
        VectorError: images of a named model, or of every model, have no vectors yet (unless `partial`), or the memory
            is too small.
        ModelError: a model cannot be loaded, or its vectors were imported.
        ShardError: a shard is damaged, or changed meanwhile.
    """
    store.catalog.check_writable()
    if options.device is not None:
        checked_device(options.device)
    with store.catalog.read() as session:
        labels = split_labels(session, split, split_id(session, split), options.labels)
        options.top_of(len(labels.names))
        prepared, skipped = prepare_models(
            store,
            session,
            names,
            split,
            lambda model: find_images(store, session, model, split, partial=options.partial),
        )
    warnings = [line for _, images in prepared for line in images.warnings]
    classifications = []
    for _, images in prepared:
        _check_memory(images, labels, options.memory)
        with wait_without_limit():
            vectors = class_vectors(store, images.model, images.text_tower, labels.names, options)
            classifications.append(_classify(store, split, images, labels, vectors, options))
        if vectors.summary.cut:
            warnings.append(
                f"{images.model.name}: {vectors.summary.cut} texts of classes are longer than it reads, and were cut"
            )
    return ZeroShotResult(classifications=classifications, skipped=skipped, warnings=list(dict.fromkeys(warnings)))


def _classify(
    store: Store,
    split: str,
    images: ModelImages,
    labels: SplitLabels,
    vectors: ClassVectors,
    options: ZeroShotOptions,
) -> Row:
    """Score the images of one model and store the result, unless the catalog changed meanwhile."""
    start = time.perf_counter()
    scored = _score(images.images, labels, vectors.vectors)
    classification = images.provenance | {
        "labels": labels.kind,
        "templates": list(options.templates),
        "templates_digest": templates_digest(options.templates),
        "top": options.top_of(len(labels.names)),
        "partial": options.partial,
        "classes": len(labels.names),
        "unlabelled_images": len(scored.image_ids) - len(np.unique(scored.image)),
        "seconds": time.perf_counter() - start,
        "evaluated_at": datetime.now(UTC),
    }
    with store.catalog.write() as session:
        check_images_unchanged(session, split, images)
        row = read_classification(session, save_classification(session, classification, scored))
        save_records(session, store, "evaluations")
    summary = vectors.summary
    return row | {"reason": labels.reason, "texts": {"encoded": summary.done, "reused": summary.reused}}


def _score(images: EmbeddedItems, labels: SplitLabels, classes: NDArray[np.float64]) -> ScoredImages:
    # Imported here: errors about unknown names are reported without loading torch.
    from clipstore.ranking.classes import class_scores, rank_pairs_of_classes, top_classes

    count = images.table.num_rows
    scores = np.empty((count, len(classes)))
    for first in range(0, count, _BLOCK):
        block = scores[first : first + _BLOCK] = class_scores(images.vectors[first : first + _BLOCK], classes)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise bad_row_error(images, "image", first + int(bad[0]))
    image_ids = images.table["image_id"].to_numpy().astype(np.int64)
    image, label = labels.of(image_ids)
    return ScoredImages(
        image_ids=image_ids,
        category_ids=labels.category_ids,
        image=image,
        label=label,
        ranks=rank_pairs_of_classes(scores, image, label),
        top=top_classes(scores, _TOP),
        scores=scores,
    )


def _check_memory(images: ModelImages, labels: SplitLabels, memory: int) -> None:
    """Check that the scores of all images for all classes fit the memory.

    Raises:
        VectorError: they do not.
    """
    needed = images.images.table.num_rows * len(labels.names) * _CELL_BYTES
    if needed > memory:
        message = (
            f"the scores of {images.images.table.num_rows:,} images for {len(labels.names):,} classes need "
            f"{-(-needed // 2**20):,} MB: raise --memory"
        )
        raise VectorError(message)
