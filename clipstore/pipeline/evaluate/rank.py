"""Rank the queries of a gallery by the stored vectors, as a protocol defines them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipstore.device import checked_device
from clipstore.pipeline.evaluate.candidates import most_hits
from clipstore.pipeline.evaluate.options import TOP_K, EvalOptions
from clipstore.pipeline.evaluate.rerank import NO_RERANKING, Reranking
from clipstore.pipeline.evaluate.tasks import (
    RankingTask,
    check_queries,
    count_lost_positives,
    count_without_positive,
    ranking_tasks,
    restrict_queries,
)
from clipstore.pipeline.evaluate.workers import rank_on_workers
from clipstore.process import peak_memory
from clipstore.protocols import PROTOCOLS
from clipstore.records import GalleryProvenance, Row
from clipstore.store.gallery import Gallery
from clipstore.store.vectors import bad_row_error

if TYPE_CHECKING:
    from clipstore.pipeline.evaluate.worker_pool import WorkerPool
    from clipstore.ranking import Ranks

Ids = NDArray[np.int64]


def _no_ids() -> Ids:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class RankedGallery:
    """The ranks of a gallery.

    Attributes:
        tasks: what was ranked: one gallery, or one for each fold of the protocol.
        ranks: the ranks of each task.
        evaluation: the row of `evaluations`, without its id.
        seen: ids of the gallery's images that the model was trained on.
    """

    gallery: Gallery
    tasks: list[RankingTask]
    ranks: list[Ranks]
    evaluation: Row
    seen: Ids = field(default_factory=_no_ids)


def rank_gallery(
    name: str,
    gallery: Gallery,
    provenance: GalleryProvenance,
    options: EvalOptions,
    *,
    excluded_image_ids: Ids | None = None,
    reranking: Reranking | None = None,
    pool: WorkerPool | None = None,
) -> RankedGallery:
    """Rank the pairs of a gallery of the model `name`, and order the first candidates again as `reranking` says.

    The images with the ids `excluded_image_ids`, and their captions, are candidates but not queries. Ranking runs on
    the workers of `pool`, or in this process.

    Raises:
        ClusterError: workers were lost, or do not see the shards.
        VectorError: the gallery does not fit the protocol, a vector is not finite, the memory is too small, or a pair
            to rerank has no score.
    """
    checked_device(options.device)
    start = time.perf_counter()
    protocol = PROTOCOLS[options.protocol]
    tasks = ranking_tasks(protocol, gallery)
    images_without, captions_without = count_without_positive(gallery, tasks)
    lost = count_lost_positives(protocol, tasks)
    image_ids = gallery.images.table["image_id"].to_numpy()
    queries = ~np.isin(image_ids, [] if excluded_image_ids is None else excluded_image_ids)
    tasks = [restrict_queries(task, gallery, queries) for task in tasks]
    check_queries(protocol, tasks, partial=options.partial)
    top = reranking.top if reranking else 0
    ranks = []
    for number, task in enumerate(tasks, 1):
        first = rank_task(name, gallery, task, options, number, top_k=max(TOP_K, most_hits(task, top)), pool=pool)
        ranks.append(reranking.apply(options.protocol, task, first) if reranking else first)
    evaluation = evaluation_row(provenance, options, start) | {
        "asked_images": gallery.images.table.num_rows - count_without_positive(gallery, tasks)[0],
        "images_without_positive": images_without,
        "captions_without_positive": captions_without,
        "lost_positives": lost,
        "screen": ranks[0].screen,
        "rechecked": sum(part.rechecked for part in ranks),
        "scores": sum(len(task.images) * len(task.captions) for task in tasks),
        **(reranking.columns() if reranking else {}),
    }
    return RankedGallery(gallery=gallery, tasks=tasks, ranks=ranks, evaluation=evaluation)


def evaluation_row(provenance: GalleryProvenance, options: EvalOptions, start: float) -> Row:
    """What all protocols store in the row of an evaluation that began at `start` (`time.perf_counter`)."""
    return asdict(provenance) | {
        "unseen": options.unseen,
        "partial": options.partial,
        "protocol": options.protocol,
        "caption_set": options.caption_set,
        "images_without_positive": 0,
        "captions_without_positive": 0,
        "lost_positives": 0,
        "seconds": time.perf_counter() - start,
        "peak_memory": peak_memory(),
        "evaluated_at": datetime.now(UTC),
        **NO_RERANKING,
    }


def rank_task(
    name: str,
    gallery: Gallery,
    task: RankingTask,
    options: EvalOptions,
    number: int,
    *,
    top_k: int,
    pool: WorkerPool | None = None,
) -> Ranks:
    """The ranks of the task `number` of a gallery of the model `name`, with `top_k` hits of each query.

    Raises:
        ClusterError: workers of `pool` were lost, or do not see the shards.
        VectorError: a vector is not finite, or the memory is too small.
    """
    # Imported here: errors about unknown names are reported without loading torch.
    from clipstore.ranking import BadRowError, RankSettings, rank_pairs

    images, texts = gallery.images.take(task.images), gallery.texts.take(task.captions)
    label = f"{name}: captions ranked" + (f", fold {number}" if PROTOCOLS[options.protocol].folds else "")
    device = checked_device(options.device)
    settings = RankSettings(top_k=top_k, memory=options.memory, device=device, screen=options.screen)
    on_progress = partial(options.on_progress, label)
    try:
        if pool is not None:
            return rank_on_workers(pool, images.vectors, texts.vectors, task.pairs, settings, on_progress)
        return rank_pairs(images.vectors, texts.vectors, task.pairs, **asdict(settings), on_progress=on_progress)
    except BadRowError as error:
        items = images if error.side == "image" else texts
        raise bad_row_error(items, error.side, error.row) from error
