"""Plan: the items of each tower that have no vector, found by SQL and cut into shard plans. Reads the catalog only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import MemoryLimit, Session
from clipstore.records import ImageFile, Model, PlanGroup, PlanSource, RegisteredShard, Row, ShardPlan, Tower, TowerName
from clipstore.shards import ObjectStorage
from clipstore.spool import BATCH_ROWS, SpooledTable, SpoolWriter, resized
from clipstore.store.layout import Store
from clipstore.store.probes import tower_fingerprints
from clipstore.store.registry import missing_shards, registered_shards
from clipstore.store.storage import shard_storage

# A shard takes a ViT-B/32 on two cores about 20 s, which is what an interrupted run loses.
ITEMS_PER_SHARD: Mapping[TowerName, int] = {"image": 1024, "text": 8192}

# As objects, shards of 16 to 64 MB need few requests and fit a cache: 17 MB of float32 vectors at a width of 512,
# 34 MB at 1024. An interrupted run loses more.
ITEMS_PER_OBJECT: Mapping[TowerName, int] = {"image": 8192, "text": 8192}

_SOURCES_AT_ONCE = 4 * BATCH_ROWS  # items whose paths or texts are read at once

# The column of `PendingItems.rows` that is a plan's `sources`.
_SOURCE_COLUMN: Mapping[PlanSource, str] = {"image_files": "source", "features": "features_file", "texts": "source"}


@dataclass(frozen=True, kw_only=True)
class PendingItems:
    """The distinct items of one tower that have no vector and are computed from one source, in the catalog's order.

    `rows` has the columns content and source (a path or a text), and for an image tower also image_id, size,
    features_file and features_row (null unless the source is "features"). `shards` describes the files of features.
    """

    tower: Tower
    source: PlanSource
    rows: SpooledTable
    shards: Mapping[str, RegisteredShard] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of items."""
        return self.rows.num_rows

    def sources(self) -> Iterator[str]:
        """The source of each item."""
        for part in self.rows.parts():
            yield from part["source"].to_pylist()

    def sample(self, most: int) -> PendingItems:
        """At most `most` of the items, evenly spaced; images in order of image id."""
        step = -(-self.count // most) or 1
        rows = self.rows.take(range(0, self.count, step))
        return replace(
            self, rows=SpooledTable.of(rows.sort_by("image_id") if "image_id" in rows.schema.names else rows)
        )


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
        return sum(items.count for items in self.pending)

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
    scope = {"splits": splits, "retry": retry}
    with store.catalog.read(limit=MemoryLimit.PLAN) as session:
        plans: list[list[TowerPlan]] = []
        planned: set[str] = set()  # fingerprints
        for model, towers in models:
            plans.append([])
            for tower in towers:
                plans[-1].append(_plan_tower(session, store, model, tower, planned, scope))
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
    for part in first.rows.parts(size):
        yield PlanGroup(plans=(_shard_plan(first, part),))


def _image_groups(pending: Sequence[PendingItems], size: int) -> Iterator[PlanGroup]:
    """Groups of `size` images: the union over all towers, from which each tower takes its own."""
    for images in resized(_union(pending), size):
        parts = [(items, images.filter(images[str(number)])) for number, items in enumerate(pending)]
        columns = (images[name].to_pylist() for name in ("content", "source", "size"))
        yield PlanGroup(
            plans=tuple(_shard_plan(items, part) for items, part in parts if part.num_rows),
            image_files=tuple(ImageFile(*image) for image in zip(*columns, strict=True)),
        )


def _union(pending: Sequence[PendingItems]) -> Iterator[pa.Table]:
    """The distinct images of all towers in the catalog's order, part by part.

    The columns are content, source and size, and by the number of each tower whether the image is pending for it.
    """
    streams = [items.rows.parts() for items in pending]
    heads = [next(stream, None) for stream in streams]
    while present := [head for head in heads if head is not None]:
        last = min(head["image_id"][-1].as_py() for head in present)  # no stream has more images up to this one
        parts = [head and head.filter(pc.less_equal(head["image_id"], last)) for head in heads]
        for number, (head, part) in enumerate(zip(heads, parts, strict=True)):
            if head is not None and part is not None:
                heads[number] = head.slice(len(part)) if len(part) < len(head) else next(streams[number], None)
        images = pa.concat_tables(part for part in parts if part is not None)
        ids, first = np.unique(images["image_id"].to_numpy(), return_index=True)
        union = images.select(["content", "source", "size"]).take(pa.array(first))
        for number, part in enumerate(parts):
            members = np.isin(ids, [] if part is None else part["image_id"].to_numpy())
            union = union.append_column(str(number), pa.array(members))
        yield union


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


def _plan_tower(session: Session, store: Store, model: Model, tower: Tower, planned: set[str], scope: Row) -> TowerPlan:
    """What a tower lacks; nothing where its fingerprint is in `planned`. `scope` has `splits` and `retry`."""
    missing = {component: missing_shards(session, store, component) for component in tower_fingerprints(tower).values()}
    ignored = [shard for shards in missing.values() for shard in shards]
    parameters = {"fingerprint": tower.fingerprint, "missing_shards": ignored, **scope}
    if tower.tower == "image":
        plan = _plan_images(session, store, tower, parameters)
    else:
        plan = _plan_texts(session, store, model, tower, parameters)
    if tower.fingerprint in planned:
        plan = replace(plan, pending=(), stored=plan.stored + plan.planned)
    lost_shards = sum(len(shards) for component, shards in missing.items() if component not in planned)
    return replace(plan, lost_shards=lost_shards)


def _plan_images(session: Session, store: Store, tower: Tower, parameters: Row) -> TowerPlan:
    parameters = {**parameters, "backbone": tower.backbone}
    with_features, without = _spool_images(session, store, parameters)
    files = {file for part in with_features.parts() for file in part["features_file"].unique().to_pylist()}
    shards = registered_shards(session, store, files)
    pending = (
        PendingItems(tower=tower, source="image_files", rows=without),
        PendingItems(tower=tower, source="features", rows=with_features, shards=shards),
    )
    return _tower_plan(tower, pending, _counts(session, "embed/count_images", parameters))


def _spool_images(session: Session, store: Store, parameters: Row) -> tuple[SpooledTable, SpooledTable]:
    """The pending images that have features, and those that have none."""
    images = _spool(session.batches("embed/pending_images", **parameters), store)
    batches = _with_sources(session, "embed/pending_image_sources", images)
    with_features, without = (SpoolWriter(batches.schema, store.root) for _ in range(2))
    for batch in batches:
        has_features = batch["features_file"].is_valid()
        with_features.add(batch.filter(has_features))
        without.add(batch.filter(pc.invert(has_features)))
    return with_features.finish(), without.finish()


def _plan_texts(session: Session, store: Store, model: Model, tower: Tower, parameters: Row) -> TowerPlan:
    settings = {"prompt": model.prompt, "clean": model.clean}
    parameters = {**parameters, **settings}
    texts = _spool(session.batches("embed/pending_texts", **parameters), store)
    rows = _spool(_with_sources(session, "embed/pending_text_sources", texts, **settings), store)
    return _tower_plan(
        tower,
        (PendingItems(tower=tower, source="texts", rows=rows),),
        _counts(session, "embed/count_texts", parameters),
    )


def _spool(batches: pa.RecordBatchReader, store: Store) -> SpooledTable:
    return SpooledTable.write(batches, batches.schema, store.root)


def _with_sources(session: Session, name: str, pending: SpooledTable, **parameters: object) -> pa.RecordBatchReader:
    """Pending items with their paths or texts, by a statement that takes some at a time.

    Sorting all of them would need memory for their paths and texts. The first column of `pending` is the id.
    """

    def rows(part: pa.Table) -> pa.Table:
        ids = part.column(0)
        session.stage(pending_items=part)
        first, last = (ids[0].as_py(), ids[-1].as_py()) if len(ids) else (None, None)
        return session.table(name, first=first, last=last, **parameters)

    schema = rows(pending.schema.empty_table()).schema
    batches = (batch for part in pending.parts(_SOURCES_AT_ONCE) for batch in rows(part).to_batches(BATCH_ROWS))
    return pa.RecordBatchReader.from_batches(schema, batches)


def _counts(session: Session, name: str, parameters: Row) -> Row:
    return session.rows(name, **{key: value for key, value in parameters.items() if key != "retry"})[0]


def _tower_plan(tower: Tower, pending: tuple[PendingItems, ...], counts: Row) -> TowerPlan:
    planned = sum(items.count for items in pending)
    return TowerPlan(
        tower=tower,
        pending=tuple(items for items in pending if items.count),
        stored=counts["stored"],
        failed=counts["items"] - counts["stored"] - planned,
        missing=counts["missing"],
    )
