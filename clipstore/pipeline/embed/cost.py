"""What embedding a split will cost, beforehand: items, bytes, and on request the time. Stores nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from clipstore import choices
from clipstore.catalog import MemoryLimit
from clipstore.pipeline.embed.estimate import SAMPLE_ITEMS, Measurement, measure, shard_bytes
from clipstore.pipeline.embed.loading import load_encoder
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import PendingItems, TowerPlan
from clipstore.pipeline.embed.run import describe_run, find_models, plan_run
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun
from clipstore.records import ITEM_KIND, Row
from clipstore.spool import SpooledTable, SpoolWriter
from clipstore.store.layout import Store


def embedding_cost(
    store: Store,
    name: str,
    split: str,
    *,
    store_dtype: choices.StoredTypeChoice = "float32",
    measure_time: bool = False,
) -> Row:
    """What `embed` of a split has to do for a model; with `measure_time`, load the model and time a sample of it.

    An image file that the store has not read yet counts as an image without a vector: its content is unknown.
    "seconds" is None without it. The time to load the model is not included.

    Raises:
        NotFoundError: there is no such model or split.
        ModelError: the files of the model are missing or damaged, or its vectors were imported.
    """
    options = EmbedOptions(splits=(split,), store_dtype=store_dtype, dry_run=True)
    models, splits = find_models(store, [name], options)
    run = describe_run(store, models, splits, options)
    (model,) = run.models
    (plans,), unread = plan_run(run, run.models), _unread_images(run)
    plans = [_with_unread(run, plan, unread) for plan in plans]
    if measure_time and any(plan.pending for plan in plans):
        load_encoder(run, model, plans)
    towers = [_tower_cost(run, model, plan, unread, measured=measure_time) for plan in plans]
    return {
        "split": split,
        "store_dtype": store_dtype,
        "precision": model.towers[0].precision,
        "towers": towers,
        "bytes": sum(tower["bytes"] for tower in towers),
        "seconds": sum(tower["seconds"] for tower in towers) if measure_time else None,
    }


def _unread_images(run: EmbedRun) -> SpooledTable:
    with run.store.catalog.read(limit=MemoryLimit.PLAN) as session:
        batches = session.batches("embed/unread_images", splits=run.splits)
        return SpooledTable.write(batches, batches.schema, run.store.root)


def _with_unread(run: EmbedRun, plan: TowerPlan, unread: SpooledTable) -> TowerPlan:
    """A plan of the image tower with the image files that were not read yet."""
    if plan.tower.tower != "image" or not unread.num_rows:
        return plan
    known = plan.items("image_files")
    rows = unread if known is None else _joined(known.rows, unread, run.store.root)
    items = PendingItems(tower=plan.tower, source="image_files", rows=rows)
    return replace(plan, pending=(items, *(other for other in plan.pending if other is not known)))


def _joined(first: SpooledTable, second: SpooledTable, folder: Path) -> SpooledTable:
    writer = SpoolWriter(first.schema, folder)
    for part in chain(first.parts(), second.parts()):
        writer.add(part.cast(first.schema))
    return writer.finish()


def _tower_cost(run: EmbedRun, model: EmbedModel, plan: TowerPlan, unread: SpooledTable, *, measured: bool) -> Row:
    measurements = [_measure(run, model, items) for items in plan.pending] if measured else []
    counts = [items.count for items in plan.pending]
    seconds = sum(part.seconds * count for part, count in zip(measurements, counts, strict=False))
    return {
        "items": ITEM_KIND[plan.tower.tower],
        "to_embed": plan.planned,
        "unread": unread.num_rows if plan.tower.tower == "image" else 0,
        "stored": plan.stored,
        "failed": plan.failed,
        "missing": plan.missing,
        "bytes": sum(shard_bytes(items, run.options.store_dtype) for items in plan.pending),
        "seconds": seconds if measured else None,
        "sample": sum(part.items for part in measurements),
    }


def _measure(run: EmbedRun, model: EmbedModel, items: PendingItems) -> Measurement:
    sample = items.sample(SAMPLE_ITEMS[items.tower.tower])
    if items.source == "image_files":
        rows = list(_with_contents(run, sample.rows))
        sample = replace(sample, rows=SpooledTable.of(pa.Table.from_pylist(rows, schema=sample.rows.schema)))
    return measure(run, model, sample) if sample.count else Measurement(0.0, 0)


def _with_contents(run: EmbedRun, rows: SpooledTable) -> Iterator[Row]:
    """The readable image files of a table with their content keys, which encoding compares with the files."""
    for row in (row for part in rows.parts() for row in part.to_pylist()):
        with suppress(OSError):
            yield row | {"content": hashlib.sha256(run.options.read(Path(row["source"]))).hexdigest()}
