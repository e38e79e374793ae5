"""Plan: the items of each tower that have no vector, found by SQL and cut into shard plans. Reads the catalog only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Session
from clipstore.records import ImageFile, Model, PlanGroup, PlanSource, RegisteredShard, ShardPlan, Tower, TowerName
from clipstore.shards import ObjectStorage
from clipstore.store.layout import Store
from clipstore.store.probes import tower_fingerprints
from clipstore.store.registry import missing_shards, registered_shards
from clipstore.store.storage import shard_storage

# A shard takes a ViT-B/32 on two cores about 20 s, which is what an interrupted run loses.
ITEMS_PER_SHARD: Mapping[TowerName, int] = {"image": 1024, "text": 8192}

# As objects, shards of 16 to 64 MB need few requests and fit a cache: 17 MB of float32 vectors at a width of 512,
# 34 MB at 1024. An interrupted run loses more.
ITEMS_PER_OBJECT: Mapping[TowerName, int] = {"image": 8192, "text": 8192}

# The column of `PendingItems.table` that is a plan's `sources`.
_SOURCE_COLUMN: Mapping[PlanSource, str] = {"image_files": "source", "features": "features_file", "texts": "source"}


@dataclass(frozen=True, kw_only=True)
class PendingItems:
    """The distinct items of one tower that have no vector and are computed from one source, in the catalog's order.

    `table` has the columns content and source (a path or a text), and for an image tower also image_id, size,
    features_file and features_row (null unless the source is "features"). `shards` describes the files of features.
    """

    tower: Tower
    source: PlanSource
    table: pa.Table
    shards: Mapping[str, RegisteredShard] = field(default_factory=dict)

    def sample(self, most: int) -> PendingItems:
        """At most `most` of the items, evenly spaced."""
        step = -(-self.table.num_rows // most) or 1
        return replace(self, table=self.table.take(pa.array(range(0, self.table.num_rows, step))))


@dataclass(frozen=True, kw_only=True)
class TowerPlan:
    """What one tower of a model lacks.

    Attributes:
        pending: the items to embed by source; a source without items is left out.
        stored: items that have a vector.
        failed: items that failed in an earlier run and are not tried again.
        missing: image files that cannot be read.
        lost_shards: registered shards whose files are missing.
    """

    tower: Tower
    pending: tuple[PendingItems, ...]
    stored: int
    failed: int
    missing: int = 0
    lost_shards: int = 0

    @property
    def planned(self) -> int:
        """The number of items to embed."""
        return sum(items.table.num_rows for items in self.pending)

    def items(self, source: PlanSource) -> PendingItems | None:
        """The items that are computed from this source; None: there are none."""
        return next((items for items in self.pending if items.source == source), None)


def plan_towers(
    store: Store, models: Sequence[tuple[Model, Sequence[Tower]]], *, splits: list[int] | None, retry: bool
) -> list[list[TowerPlan]]:
    """What some towers of each model lack, of the images of some splits (None: all) and their captions.

    A tower of several models, and its lost shards, are planned for the first of them; for the others its items count
    as stored. With `retry`, items that failed before are planned again.
    """
    with store.catalog.read() as session:
        session.stage(scope=session.table("embed/scope", splits=splits))
        plans: list[list[TowerPlan]] = []
        planned: set[str] = set()  # fingerprints
        for model, towers in models:
            plans.append([])
            for tower in towers:
                plans[-1].append(_plan_tower(session, store, model, tower, planned, retry=retry))
                planned.update(tower_fingerprints(tower).values())
        return plans


def items_per_shard(store: Store) -> Mapping[TowerName, int]:
    """The number of items of a shard, which is larger on object storage."""
    return ITEMS_PER_OBJECT if isinstance(shard_storage(store), ObjectStorage) else ITEMS_PER_SHARD


def plan_groups(pending: Sequence[PendingItems], sizes: Mapping[TowerName, int] | None = None) -> Iterator[PlanGroup]:
    """Cut pending items of one source into shard plans, in the catalog's order.

    `sizes` are the items of a shard (see `items_per_shard`; None: ITEMS_PER_SHARD).

    Of "image_files", several towers share groups, in which each image is decoded once; other sources take one tower.
    """
    first = pending[0]
    size = (sizes or ITEMS_PER_SHARD)[first.tower.tower]
    if first.source == "image_files":
        yield from _image_groups(pending, size)
        return
    for start in range(0, first.table.num_rows, size):
        yield PlanGroup(plans=(_shard_plan(first, first.table.slice(start, size)),))


def _image_groups(pending: Sequence[PendingItems], size: int) -> Iterator[PlanGroup]:
    """Groups of `size` images: the union over all towers, from which each tower takes its own."""
    union = pa.concat_tables(items.table for items in pending).group_by("content", use_threads=False)
    union = union.aggregate([("source", "first"), ("size", "first"), ("image_id", "min")]).sort_by("image_id_min")
    union = union.select(["content", "source_first", "size_first"]).rename_columns(["content", "source", "size"])
    members = [pc.is_in(union["content"], items.table["content"]) for items in pending]
    for start in range(0, union.num_rows, size):
        images = union.slice(start, size)
        parts = [(items, images.filter(mask.slice(start, size))) for items, mask in zip(pending, members, strict=True)]
        columns = (images[name].to_pylist() for name in ("content", "source", "size"))
        yield PlanGroup(
            plans=tuple(_shard_plan(items, part) for items, part in parts if part.num_rows),
            image_files=tuple(ImageFile(*image) for image in zip(*columns, strict=True)),
        )


def _shard_plan(items: PendingItems, table: pa.Table) -> ShardPlan:
    sources = table[_SOURCE_COLUMN[items.source]].to_pylist()
    has_shards = items.source == "features"
    return ShardPlan(
        tower=items.tower,
        source=items.source,
        contents=table["content"].to_pylist(),
        sources=sources,
        rows=table["features_row"].to_pylist() if has_shards else [],
        shards={file: items.shards[file] for file in set(sources)} if has_shards else {},
    )


def _plan_tower(
    session: Session, store: Store, model: Model, tower: Tower, planned: set[str], *, retry: bool
) -> TowerPlan:
    """What a tower lacks; nothing where its fingerprint is in `planned`."""
    missing = {component: missing_shards(session, store, component) for component in tower_fingerprints(tower).values()}
    ignored = [shard for shards in missing.values() for shard in shards]
    if tower.tower == "image":
        plan = _plan_images(session, store, tower, ignored, retry=retry)
    else:
        plan = _plan_texts(session, model, tower, ignored, retry=retry)
    if tower.fingerprint in planned:
        plan = replace(plan, pending=(), stored=plan.stored + plan.planned)
    lost_shards = sum(len(shards) for component, shards in missing.items() if component not in planned)
    return replace(plan, lost_shards=lost_shards)


def _plan_images(session: Session, store: Store, tower: Tower, missing: list[int], *, retry: bool) -> TowerPlan:
    parameters = {"fingerprint": tower.fingerprint, "backbone": tower.backbone, "missing_shards": missing}
    counts = session.rows("embed/count_images", **parameters)[0]
    table = session.table("embed/pending_images", retry=retry, **parameters)
    has_features = table["features_file"].is_valid()
    shards = registered_shards(session, store, pc.unique(table["features_file"].drop_null()).to_pylist())
    pending = (
        PendingItems(tower=tower, source="image_files", table=table.filter(pc.invert(has_features))),
        PendingItems(tower=tower, source="features", table=table.filter(has_features), shards=shards),
    )
    return _tower_plan(tower, pending, counts)


def _plan_texts(session: Session, model: Model, tower: Tower, missing: list[int], *, retry: bool) -> TowerPlan:
    parameters: dict[str, Any] = {"fingerprint": tower.fingerprint, "missing_shards": missing}
    parameters |= {"prompt": model.prompt, "clean": model.clean}
    counts = session.rows("embed/count_texts", **parameters)[0]
    table = session.table("embed/pending_texts", retry=retry, **parameters)
    return _tower_plan(tower, (PendingItems(tower=tower, source="texts", table=table),), counts)


def _tower_plan(tower: Tower, pending: tuple[PendingItems, ...], counts: Mapping[str, int]) -> TowerPlan:
    planned = sum(items.table.num_rows for items in pending)
    return TowerPlan(
        tower=tower,
        pending=tuple(items for items in pending if items.table.num_rows),
        stored=counts["stored"],
        failed=counts["items"] - counts["stored"] - planned,
        missing=counts["missing"],
    )
