"""The state of an embed run: its models, and the encoders that are loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clipstore.device import checked_device, unallocated_memory
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.ray_workers import RayPlaces
from clipstore.inference.settings import EncodeSettings, Timings
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import PendingItems, TowerPlan
from clipstore.pipeline.embed.summary import EmbedSummary
from clipstore.records import ITEM_KIND, Model, Tower, TowerName
from clipstore.store.layout import Store
from clipstore.store.storage import shard_storage

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder


@dataclass(kw_only=True)
class EmbedModel:
    """A model of an embed run.

    Attributes:
        towers: image and text tower.
        files_key: key of the model files that the towers were described from.
        selected: the towers that the run embeds.
        summaries: a summary for each of `selected`.
        encoder: None unless loaded.
        encoded_images: whether the run encoded images by this model, together with others.
        deferred: images that wait for the features of another model of the run, which this run does not register.
        warned: whether warnings about the model's files were logged.
    """

    model: Model
    towers: tuple[Tower, ...]
    files_key: str
    selected: tuple[Tower, ...]
    summaries: dict[TowerName, EmbedSummary]
    encoder: Encoder | None = None
    encoded_images: bool = False
    deferred: int = 0
    warned: bool = False

    @classmethod
    def of(cls, model: Model, towers: tuple[Tower, ...], files_key: str, options: EmbedOptions) -> EmbedModel:
        """A model with nothing done yet."""
        selected = tuple(tower for tower in towers if options.only in (None, ITEM_KIND[tower.tower]))
        summaries = {
            tower.tower: EmbedSummary(model=model.name, tower=tower.tower, fingerprint=tower.fingerprint)
            for tower in selected
        }
        return cls(model=model, towers=towers, files_key=files_key, selected=selected, summaries=summaries)

    @property
    def required_encoder(self) -> Encoder:
        """Returns the encoder. It must be loaded."""
        assert self.encoder is not None
        return self.encoder

    def count(self, plans: Iterable[TowerPlan]) -> None:
        """Set the counts of plans in the summaries, except for images once they were encoded by an earlier plan."""
        for plan in plans:
            if plan.tower.tower == "image" and self.encoded_images:
                continue
            summary = self.summaries[plan.tower.tower]
            summary.planned, summary.reused = plan.planned, plan.stored
            summary.failed, summary.missing = plan.failed, plan.missing
            summary.lost_shards = max(summary.lost_shards, plan.lost_shards)


Work = Sequence[tuple[EmbedModel, PendingItems]]  # items of one source, of one tower of each model
Process = Callable[["EmbedRun", Work], None]


def _no_process(_run: EmbedRun, _work: Work) -> None:
    """Process no items: the run only plans."""


@dataclass(frozen=True, kw_only=True)
class EmbedRun:
    """An embed run.

    Attributes:
        splits: ids; None: the whole catalog.
        process: takes the pending items of one source.
        registers: whether `process` registers their shards, so that the items that follow are planned again.
        places: those of a cluster.
        splitters: by a tower's fingerprint.
    """

    store: Store
    options: EmbedOptions
    splits: list[int] | None
    models: list[EmbedModel]
    process: Process = _no_process
    registers: bool = False
    places: RayPlaces | None = None
    splitters: defaultdict[str, BatchSplitter] = field(default_factory=lambda: defaultdict(BatchSplitter))

    @property
    def weights(self) -> int:
        """Bytes of the weights of the encoders that are loaded."""
        return sum(model.encoder.weight_bytes for model in self.models if model.encoder)

    @property
    def memory(self) -> float:
        """Bytes for the weights and batches of all models on the first device: `--memory`, or what a GPU has left."""
        return min(self.options.memory, self.weights + unallocated_memory(self.devices()[0]))

    def summaries(self) -> list[EmbedSummary]:
        """The summary of each tower of each model."""
        summaries = [summary for model in self.models for summary in model.summaries.values()]
        for summary in summaries:
            summary.pieces = self.splitters[summary.fingerprint].count
        return summaries

    def devices(self) -> list[str]:
        """The devices to use, the first of which models are loaded on.

        Raises:
            ModelError: there is no such device.
        """
        return [checked_device(device) for device in self.options.devices or (None,)]

    def encode_settings(self, model: EmbedModel, tower: Tower, timings: Timings) -> EncodeSettings:
        """How a tower of a loaded model encodes, within the memory that the weights leave."""
        return EncodeSettings(
            storage=shard_storage(self.store),
            model=model.model,
            encoder=model.required_encoder,
            store_dtype=self.options.store_dtype,
            batch_tokens=model.required_encoder.batch_tokens(tower.tower, self.options.memory - self.weights),
            timings=timings,
            splitter=self.splitters[tower.fingerprint],
            read=self.options.read,
        )
