"""Vectors of a split computed with the current weights of a model in training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from clipstore import shards
from clipstore.errors import TrainingError
from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import EncodeSettings
from clipstore.pipeline.train.dataset import TrainingPairs
from clipstore.pipeline.train.job import TrainJob
from clipstore.progress import Progress, progress_counter
from clipstore.records import PlanSource, ShardPlan
from clipstore.store.gallery import Gallery
from clipstore.store.layout import Store
from clipstore.store.storage import shard_storage
from clipstore.store.vectors import EmbeddedItems

if TYPE_CHECKING:
    from clipstore.encoders.lora import LoraModel

_MEMORY = 2**30  # bytes for the batches of a validation

_COLUMNS: dict[PlanSource, str] = {"texts": "text", "image_files": "path", "features": "file"}


@dataclass(frozen=True, kw_only=True)
class LiveVectors:
    """Encodes a split with the current weights of the model in training."""

    store: Store
    job: TrainJob
    learner: LoraModel
    on_progress: Progress

    def gallery(self, stored: Gallery, pairs: TrainingPairs) -> Gallery:
        """The base's gallery of a split with current vectors; those of a tower that is not trained stay as stored.

        Raises:
            TrainingError: an item cannot be encoded.
        """
        texts = self._encode(stored.texts, pairs, "texts")
        if self.learner.trains_vision:
            return replace(stored, texts=texts, images=self._encode(stored.images, pairs, "image_files"))
        if self.job.training.heads:
            return replace(stored, texts=texts, images=self._encode(stored.images, pairs, "features"))
        return replace(stored, texts=texts)

    def _encode(self, items: EmbeddedItems, pairs: TrainingPairs, source: PlanSource) -> EmbeddedItems:
        """Items with current vectors; each distinct content is encoded once."""
        id_column, content = ("caption_id", "caption_content") if source == "texts" else ("image_id", "image_content")
        row = pc.index_in(items.table[id_column], pairs.table[id_column])
        contents = pairs.table[content].take(row).combine_chunks().dictionary_encode()
        distinct = pairs.table.take(pc.index_in(contents.dictionary, pairs.table[content])).to_pydict()
        plan = ShardPlan(
            tower=items.tower,
            source=source,
            contents=distinct[content],
            sources=distinct[_COLUMNS[source]],
            rows=distinct["row"],
            shards=pairs.shards(self.store) if source == "features" else {},
        )
        encoded = encode_rows(plan, self._settings(plan))
        if encoded.failures:
            first, reason = next(iter(encoded.failures.items()))
            message = f"{len(encoded.failures)} items cannot be encoded; first: {first[:12]}: {reason}"
            raise TrainingError(message)
        vectors = shards.normalize(encoded.vectors, "float32")
        return items.with_vectors(vectors[contents.indices.to_numpy()])

    def _settings(self, plan: ShardPlan) -> EncodeSettings:
        task = f"{self.job.name}: encoding {'captions' if plan.source == 'texts' else 'images'}"
        return EncodeSettings(
            storage=shard_storage(self.store),
            model=self.job.base,
            encoder=self.learner.encoder,
            batch_tokens=self.learner.encoder.batch_tokens(plan.tower.tower, _MEMORY),
            on_progress=progress_counter(self.on_progress, task, len(plan.contents)),
        )
