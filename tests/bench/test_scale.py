"""Memory does not grow with the number of items: plan and register, on made items."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from scale import make_catalog, make_shards, measure_size, plan, register_all

from clipstore.store.layout import Store


def peak_bytes(function: Callable[[], object]) -> int:
    """The peak of Arrow's buffers in a call: of the tables that it holds. DuckDB's memory has a limit of its own."""
    default, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        function()
        return int(pool.max_memory())
    finally:
        pa.set_memory_pool(default)


def made_store(folder: Path, images: int) -> Store:
    store = Store(folder / str(images))
    make_catalog(store, images)
    return store


def bytes_per_item(stores: Mapping[int, Store], function: Callable[[Store], object]) -> float:
    """The bytes that each further item takes, from a small store to a large one; the keys are numbers of images."""
    small, large = (peak_bytes(lambda store=store: function(store)) for store in stores.values())
    return (large - small) / (2 * (max(stores) - min(stores)))


def test_the_memory_of_a_plan_does_not_grow_with_its_items(tmp_path: Path) -> None:
    """An item that is held takes more than 100 bytes: a content key and a source."""
    stores = {images: made_store(tmp_path, images) for images in (150_000, 450_000)}
    assert plan(stores[150_000]) == 300_000
    assert bytes_per_item(stores, plan) < 25


def test_the_memory_of_registering_does_not_grow_with_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scale.FILES_AT_ONCE", 2)
    stores = {images: made_store(tmp_path, images) for images in (40_000, 120_000)}
    for images, store in stores.items():
        make_shards(store, images)
    assert bytes_per_item(stores, register_all) < 25
    assert plan(stores[40_000]) == 0


@pytest.mark.full
@pytest.mark.parametrize("steps", [("plan", "register"), ("plan_files", "register_plans")], ids="-".join)
def test_10_million_items_take_a_minute_and_a_gigabyte(steps: tuple[str, ...], tmp_path: Path) -> None:
    """5 million images and as many captions, planned, and registered from 1,000 shards: no more than for a million."""
    measured = {
        images: {row["step"]: row for row in measure_size(tmp_path, images, steps)} for images in (500_000, 5_000_000)
    }
    for step in steps:
        small, large = (measured[images][step] for images in (500_000, 5_000_000))
        assert large["seconds"] <= 60, large
        assert large["peak_memory"] <= 10**9, large
        assert large["peak_memory"] <= 1.2 * small["peak_memory"], (small, large)
