"""Planning: what is missing, without changing the catalog; plans are cut in the same places in every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from helpers import held_catalog, query_rows

from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.pipeline.embed.plan import ITEMS_PER_SHARD, PendingItems, TowerPlan, plan_groups, plan_towers
from clipstore.records import Model, Tower
from clipstore.spool import SpooledTable
from clipstore.store.layout import Store

Run = Callable[..., Any]

DEMO = Model(name="demo", family="clip", base="bundled:demo")


def plan(store: Path, model: Model = DEMO) -> list[TowerPlan]:
    (plans,) = plan_towers(Store(store), [(model, fingerprint_towers(model, "fp32"))], splits=None, retry=False)
    return plans


def test_planning_takes_no_write_lock_and_records_no_model(scene_store: Path) -> None:
    """Another process may have the catalog open for reading meanwhile."""
    with held_catalog(scene_store / "catalog.duckdb", read_only=True):
        image, text = plan(scene_store)
    assert (image.planned, image.missing) == (0, 0)  # before the image files are checked
    assert text.planned == query_rows(scene_store, "SELECT count(DISTINCT text) AS n FROM captions")[0]["n"]
    assert query_rows(scene_store, "FROM models") == []


def test_the_prompt_of_a_model_decides_its_texts(scene_store: Path) -> None:
    _, text = plan(scene_store, Model(name="prompted", family="clip", base="bundled:demo", prompt="a drawing of {}"))
    (items,) = text.pending
    sources = list(items.sources())
    assert sources
    assert all(source.startswith("a drawing of ") for source in sources)


def test_items_of_missing_shards_are_pending(scene_store: Path, cli: Run) -> None:
    cli("embed", "--model", "demo", "--precision", "fp32")
    assert [(tower.planned, tower.lost_shards) for tower in plan(scene_store)] == [(0, 0), (0, 0)]
    before = query_rows(scene_store, "SELECT * FROM vectors ORDER BY ALL")
    for row in query_rows(scene_store, "SELECT file FROM shards WHERE kind = 'features' OR tower = 'text'"):
        (scene_store / row["file"]).unlink()
    image, text = plan(scene_store)
    assert (image.planned, image.stored, image.lost_shards) == (24, 0, 1)
    assert [items.source for items in image.pending] == ["image_files"]
    assert (text.stored, text.lost_shards) == (0, 1)
    assert query_rows(scene_store, "SELECT * FROM vectors ORDER BY ALL") == before


def pending(fingerprint: str, numbers: range) -> PendingItems:
    tower = Tower(tower="image", fingerprint=fingerprint, precision="fp32", dim=4, backbone=f"{fingerprint}-backbone")
    table = pa.table(
        {
            "content": [f"{number:064x}" for number in numbers],
            "source": [f"{number}.jpg" for number in numbers],
            "image_id": list(numbers),
            "size": [9] * len(numbers),
            "features_file": pa.nulls(len(numbers), pa.string()),
            "features_row": pa.nulls(len(numbers), pa.int32()),
        }
    )
    return PendingItems(tower=tower, source="image_files", rows=SpooledTable.of(table))


def test_towers_share_the_image_files_of_a_group() -> None:
    size = ITEMS_PER_SHARD["image"]
    groups = list(plan_groups([pending("a", range(size + 10)), pending("b", range(size, size + 20))]))
    assert [len(group.image_files) for group in groups] == [size, 20]
    assert [[plan.tower.fingerprint for plan in group.plans] for group in groups] == [["a"], ["a", "b"]]
    assert [len(plan.contents) for plan in groups[1].plans] == [10, 20]
    assert groups[1].plans[1].sources == [f"{number}.jpg" for number in range(size, size + 20)]
