"""`clipstore plan`: write what models lack as plan files, which any machine can encode without the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipstore.errors import PlanError
from clipstore.inference.plan_files import (
    INDEX,
    Index,
    IndexEntry,
    Plan,
    encode_content,
    plan_of,
    read_file,
    write_encoded,
    write_file,
)
from clipstore.inference.write import plan_files
from clipstore.pipeline.embed.execute import remote_settings
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import items_per_shard, plan_groups
from clipstore.pipeline.embed.run import find_models, run_embed
from clipstore.pipeline.embed.state import EmbedRun, Work
from clipstore.pipeline.embed.summary import EmbedSummary
from clipstore.progress import progress_counter
from clipstore.records import ITEM_KIND, Row, TowerName
from clipstore.store.layout import Store
from clipstore.store.settings import store_id

_COUNTS = ("planned", "reused", "failed", "missing", "lost_shards", "special_tokens", "least_cosine")
_DIGITS = 6  # of the numbers in the names of plan files


@dataclass(frozen=True, kw_only=True)
class WrittenPlans:
    """The result of `write_plans`.

    Attributes:
        index: the index of the folder.
        summaries: a summary for each tower of each model.
        deferred: by model the images that wait for the features of another model's images, which are planned here.
    """

    folder: Path
    index: Index
    summaries: list[EmbedSummary]
    deferred: Row

    def row(self) -> Row:
        """What `clipstore plan --json` prints."""
        return {
            "folder": str(self.folder),
            "store": self.index.store,
            "planned": [
                {name: getattr(summary, name) for name in ("model", "tower", "fingerprint", *_COUNTS)}
                for summary in self.summaries
            ],
            "deferred": self.deferred,
            "plans": [
                {"file": entry.file, "models": entry.models, "tower": entry.tower, "items": entry.items}
                for entry in self.index.plans
            ],
        }


def write_plans(
    store: Store, names: Iterable[str], folder: Path, options: EmbedOptions, *, items: int | None = None
) -> WrittenPlans:
    """Write the plans of the items that models have no vectors for, and their index, into a folder.

    `items` is the largest number of items of a plan (None: as `embed` cuts them). Planning the same again gives the
    same files. Models are loaded, so that every plan states their probes.

    Raises:
        NotFoundError: a model or split does not exist, or there is no store.
        ModelError: a model cannot be loaded, or its vectors were imported.
        PlanError: the folder has other plans, or a file cannot be written.
    """
    models, splits = find_models(store, names, options)
    sizes = dict.fromkeys(ITEM_KIND, items) if items else items_per_shard(store)
    writer = PlanWriter(folder, store_id(store), sizes)
    run = run_embed(store, models, splits, options, writer.add)
    return WrittenPlans(
        folder=folder,
        index=writer.finish(store.root),
        summaries=run.summaries(),
        deferred={model.model.name: model.deferred for model in run.models if model.deferred},
    )


class PlanWriter:
    """Writes plan files. The folder may have the same plans already, from an earlier call, and no others."""

    def __init__(self, folder: Path, store: str, sizes: Mapping[TowerName, int]) -> None:
        self._folder, self._store, self._sizes = folder, store, sizes
        index = folder / INDEX
        self._earlier = read_file(index, "plan-index", Index)[0] if index.exists() else None
        self._entries: list[IndexEntry] = []

    def add(self, run: EmbedRun, work: Work) -> None:
        """Write the plans of the pending items of one source."""
        settings = remote_settings(run, work)
        names = " and ".join(model.model.name for model, _ in work)
        kind = ITEM_KIND[work[0][1].tower.tower]
        total = sum(model.summaries[items.tower.tower].planned for model, items in work)
        count = progress_counter(run.options.on_progress, f"{names}: {kind} planned", total)
        for group in plan_groups([items for _, items in work], self._sizes):
            plan = plan_of(group, settings, store=self._store, root=run.store.root)
            self._write(plan, [file for part in group.plans for file in plan_files(part)])
            count(sum(len(part.contents) for part in group.plans))

    def finish(self, root: Path) -> Index:
        """Write the index, which makes the plans complete."""
        index = Index(store=self._store, folder=str(root), plans=self._entries)
        if self._earlier and self._entries and self._earlier.plans != self._entries:
            raise self._has_others()
        if self._entries and not self._earlier:
            write_file(self._folder / INDEX, "plan-index", index)
        return index

    def _write(self, plan: Plan, shards: list[str]) -> None:
        number = len(self._entries)
        encoded = encode_content(plan)
        entry = IndexEntry(
            file=f"{number:0{_DIGITS}}.json",
            digest=encoded.digest,
            models=[planned.model.name for planned in plan.towers],
            tower=plan.towers[0].tower.tower,
            items=len(plan.contents),
            shards=shards,
        )
        if self._earlier and self._earlier.plans[number : number + 1] != [entry]:
            raise self._has_others()
        self._entries.append(entry)
        path = self._folder / entry.file
        if not self._earlier or not path.exists():
            write_encoded(path, "plan", encoded, whole=False)

    def _has_others(self) -> PlanError:
        return PlanError(
            f"{self._folder} has the plans of another run: 'clipstore encode' and 'clipstore register' them, and plan "
            "into another folder"
        )
