"""What embedding a split will cost, beforehand: items, bytes, and on request the time. Stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from clipstore import choices
from clipstore.pipeline.embed.estimate import SAMPLE_ITEMS, seconds_per_item, shard_bytes
from clipstore.pipeline.embed.loading import load_encoder
from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.plan import PendingItems, TowerPlan
from clipstore.pipeline.embed.run import describe_run, find_models, plan_run
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun
from clipstore.records import ITEM_KIND, Row
from clipstore.store.layout import Store


def embedding_cost(
    store: Store, name: str, split: str, *, store_dtype: choices.StoredTypeChoice = "float32", measure: bool = False
) -> Row:
    """What `embed` of a split has to do for a model; with `measure`, load the model and time a sample of the items.

    An image file that the store has not read yet counts as an image without a vector: its content is unknown.
    "seconds" is None without `measure`. The time to load the model is not included.

    Raises:
        NotFoundError: there is no such model or split.
        ModelError: the files of the model are missing or damaged, or its vectors were imported.
    """
    options = EmbedOptions(splits=(split,), store_dtype=store_dtype, dry_run=True)
    models, splits = find_models(store, [name], options)
    run = describe_run(store, models, splits, options)
    (model,) = run.models
    (plans,), unread = plan_run(run, run.models), _unread_images(run)
    plans = [_with_unread(plan, unread) for plan in plans]
    if measure and any(plan.pending for plan in plans):
        load_encoder(run, model, plans)
    towers = [_tower_cost(run, model, plan, unread, measure=measure) for plan in plans]
    return {
        "split": split,
        "store_dtype": store_dtype,
        "precision": model.towers[0].precision,
        "towers": towers,
        "bytes": sum(tower["bytes"] for tower in towers),
        "seconds": sum(tower["seconds"] for tower in towers) if measure else None,
    }


def _unread_images(run: EmbedRun) -> pa.Table:
    with run.store.catalog.read() as session:
        session.stage(scope=session.table("embed/scope", splits=run.splits))
        return session.table("embed/unread_images")


def _with_unread(plan: TowerPlan, unread: pa.Table) -> TowerPlan:
    """A plan of the image tower with the image files that were not read yet."""
    if plan.tower.tower != "image" or not unread.num_rows:
        return plan
    known = plan.items("image_files")
    table = unread if known is None else pa.concat_tables([known.table, unread.cast(known.table.schema)])
    items = PendingItems(tower=plan.tower, source="image_files", table=table)
    return replace(plan, pending=(items, *(other for other in plan.pending if other is not known)))


def _tower_cost(run: EmbedRun, model: EmbedModel, plan: TowerPlan, unread: pa.Table, *, measure: bool) -> Row:
    sampled = [min(items.table.num_rows, SAMPLE_ITEMS[plan.tower.tower]) for items in plan.pending]
    return {
        "items": ITEM_KIND[plan.tower.tower],
        "to_embed": plan.planned,
        "unread": unread.num_rows if plan.tower.tower == "image" else 0,
        "stored": plan.stored,
        "failed": plan.failed,
        "missing": plan.missing,
        "bytes": sum(shard_bytes(items, run.options.store_dtype) for items in plan.pending),
        "seconds": _seconds(run, model, plan.pending) if measure else None,
        "sample": sum(sampled) if measure else 0,
    }


def _seconds(run: EmbedRun, model: EmbedModel, pending: Sequence[PendingItems]) -> float:
    return sum(seconds_per_item(run, model, items) * int(items.table.num_rows) for items in pending)
