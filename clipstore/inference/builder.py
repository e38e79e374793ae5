"""The rows of one shard while its items are encoded."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clipstore.inference.batches import Batch, Floats, ModelThreads, compute_batch, concatenate
from clipstore.inference.settings import EncodeSettings
from clipstore.records import ShardPlan


@dataclass(frozen=True)
class EncodedRows:
    """The rows of a plan's shards, in the order of the plan, so that neighbours in the catalog are neighbours on disk.

    Attributes:
        contents: content key of each row.
        failures: content key -> reason, of the items that have no row.
        vectors: float32 (N, dim), not normalised.
        features: float32 (N, features_dim), or None if they are not computed.
        cut: texts that were truncated to the model's maximum length.
    """

    contents: list[str]
    failures: dict[str, str]
    vectors: Floats
    features: Floats | None
    cut: int


class ShardBuilder:
    """Collects the items of a plan into batches, submits them to the model, and joins the outputs."""

    def __init__(self, plan: ShardPlan, settings: EncodeSettings, threads: ModelThreads) -> None:
        self.plan, self.settings, self.cut = plan, settings, 0
        self._threads = threads
        self._failures: dict[str, str] = {}
        self._contents: list[str] = []
        self._items: list[Any] = []
        self._batches: list[Future[Batch]] = []

    def add(self, content: str, item: Any, *, batch_size: int) -> None:
        """Add an item to the current batch, which is submitted once it has `batch_size` items."""
        self._contents.append(content)
        self._items.append(item)
        if len(self._items) >= batch_size:
            self.submit()

    def fail(self, content: str, reason: str) -> None:
        """Record why an item has no vector."""
        self._failures[content] = reason
        self.settings.on_progress(1)

    def submit(self) -> None:
        """Submit the current batch. Blocks while the model's queue is full."""
        if not self._items:
            return
        settings, contents, items = self.settings, self._contents, self._items
        self._contents, self._items = [], []
        task = partial(compute_batch, settings.encoder, settings.splitter, self.plan.source, contents, items)
        batch = self._threads.submit(task)
        batch.add_done_callback(partial(_report, settings, len(contents)))
        self._batches.append(batch)

    def rows(self) -> EncodedRows:
        """All rows, once every batch is computed. An item with a non-finite vector is a failure.

        Raises:
            ShardError: features cannot be read.
            ModelError: a single item does not fit the device memory.
        """
        batches = [future.result() for future in self._batches]
        self.settings.timings.forward += sum(batch.seconds for batch in batches)
        contents = [content for batch in batches for content in batch.contents]
        vectors = concatenate(batch.vectors for batch in batches)
        features = concatenate(batch.features for batch in batches)
        if vectors is None:
            vectors = np.empty((0, self.plan.tower.dim), dtype=np.float32)
        finite = np.isfinite(vectors).all(axis=1)  # fp16 may overflow, for example
        reason = "the model gave a non-finite vector"
        failures = self._failures | {contents[row]: reason for row in np.flatnonzero(~finite)}
        plan_index = {content: index for index, content in enumerate(self.plan.contents)}
        order = sorted(np.flatnonzero(finite), key=lambda row: plan_index[contents[row]])
        return EncodedRows(
            contents=[contents[row] for row in order],
            failures={content: failures[content] for content in self.plan.contents if content in failures},
            vectors=vectors[order],
            features=None if features is None else features[order],
            cut=self.cut,
        )


def _report(settings: EncodeSettings, items: int, _: Future[Batch]) -> None:
    settings.on_progress(items)
