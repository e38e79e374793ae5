"""Ranking on the workers of a Ray cluster (`clipstore eval --ray`).

This process, the driver, scores the pairs and divides the score matrix into parts. A worker reads the rows of a part
from the shards, ranks it, and returns the counts of its pairs and the hits of its rows, which the driver merges as they
come.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from clipstore.cluster import check_nodes, connect
from clipstore.errors import ClipstoreError, ClusterError
from clipstore.pipeline.evaluate.worker_pool import WorkerPool
from clipstore.store.vectors import StoredRows

if TYPE_CHECKING:
    from clipstore.ranking import Part, PartRanks, Ranks, RankSettings, Targets

_PARTS = 4  # parts of each worker: the last ones end at nearly the same time


@dataclass(frozen=True, kw_only=True, eq=False)
class SharedTask:
    """What all parts of a matrix share: Ray copies it once to each node.

    `scoring` is the digest of the order in which the driver sums (see `scoring_digest`); `id` is that of this task.
    """

    id: str
    images: StoredRows
    texts: StoredRows
    targets: Targets
    settings: RankSettings
    scoring: str


class RankWorker:
    """The actor that ranks parts on a node, in as many threads as it has CPUs."""

    def __init__(self, threads: int) -> None:
        import torch

        from clipstore.ranking import LastImages

        torch.set_num_threads(threads)
        self._task_id, self._last = "", LastImages()

    def process_id(self) -> int:
        """The id of its process on its node."""
        return os.getpid()

    def rank(self, task: SharedTask, part: Part) -> PartRanks | ClipstoreError:
        """Rank a part. An error that the user can fix is returned."""
        from clipstore.ranking import LastImages, Side, rank_part, scoring_digest

        if scoring_digest(task.images.dim) != task.scoring:
            return ClusterError(
                "the processor adds the terms of a score in another order than that of this process, so that ranks "
                "could differ: use nodes with one kind of processor"
            )
        if task.id != self._task_id:
            self._task_id, self._last = task.id, LastImages()
        images, texts = task.images.with_stamps(), task.texts.with_stamps()
        unseen = images.missing_shard(part.images) or texts.missing_shard(part.texts)
        if unseen:
            return ClusterError(
                f"the shard {unseen} is not visible: the store must be on a file system that all nodes share, under "
                "the same path"
            )
        try:
            sides = Side(images, "image"), Side(texts, "text")
            return rank_part(*sides, task.targets, part, task.settings, last=self._last)
        except ClipstoreError as error:
            return error


@contextmanager
def rank_workers(address: str, cpus: int | None) -> Iterator[WorkerPool]:
    """Connect to a Ray cluster and start a worker for every `cpus` CPUs of a node; None: one on each node.

    Raises:
        MissingExtraError: Ray is not installed.
        ClusterError: no cluster answers, a node has other versions, or no node has as many CPUs.
    """
    with connect(address) as nodes:
        usable = [node for node in nodes if node.cpus >= (cpus or 1)]
        if nodes and not usable:
            most = max(node.cpus for node in nodes)
            message = f"no node of the Ray cluster has {cpus or 1} CPUs; the largest has {most}: see 'ray status'"
            raise ClusterError(message)
        check_nodes(usable)
        pool = WorkerPool(RankWorker, usable, cpus)
        try:
            yield pool
        finally:
            pool.stop()


def rank_on_workers(
    pool: WorkerPool,
    images: StoredRows,
    texts: StoredRows,
    pairs: NDArray[np.int64],
    settings: RankSettings,
    on_progress: Callable[[int, int, str], None],
) -> Ranks:
    """The ranks of `rank_pairs`, with `settings.memory` for this process and for each worker.

    `on_progress` is called with the number of text rows ranked, their total, and a note.

    Raises:
        VectorError: a vector cannot be ranked, or the memory is too small.
        ShardError: a shard is damaged.
        ClusterError: workers were lost, or a node differs or does not see a shard.
    """
    from clipstore.ranking import Merge, divide, score_targets, scoring_digest

    images, texts = images.absolute(), texts.absolute()
    targets = score_targets(images, texts, pairs, settings)
    task = SharedTask(
        id=uuid4().hex,
        images=images,
        texts=texts,
        targets=targets,
        settings=settings,
        scoring=scoring_digest(images.dim),
    )
    merge = Merge(targets, images=images.shape[0], texts=texts.shape[0], top_k=settings.top_k)
    parts = divide(images.shape[0], texts.shape[0], _PARTS * len(pool))
    cells, total = 0, texts.shape[0]
    with closing(pool.results(task, parts)) as results:
        for number, result in enumerate(results, 1):
            merge.add(result)
            cells += result.part.cells
            done = total * cells // max(1, merge.whole.cells)
            on_progress(done, total, f"part {number} of {len(parts)} on {len(pool)} workers")
    return merge.ranks()
