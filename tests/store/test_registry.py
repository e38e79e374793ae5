"""Registering many shards at once gives what registering one after another gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import query_rows

from clipstore.shards import Shard, ShardInfo, normalize, write_shard
from clipstore.store.layout import Store
from clipstore.store.registry import register

INFO = ShardInfo(
    kind="vectors",
    tower="text",
    fingerprint="f" * 64,
    model="m",
    family="clip",
    precision="fp32",
    normalised=True,
    cut=0,
    software="{}",
)


def key(number: int) -> str:
    return f"{number:064x}"


def shard(store: Store, name: str, numbers: list[int], failed: dict[int, str] | None = None) -> Shard:
    values = normalize(np.random.default_rng(len(numbers)).normal(size=(len(numbers), 4)), "float32")
    failures = {key(number): reason for number, reason in (failed or {}).items()}
    path = store.shards / INFO.fingerprint / f"text-{name}.h5"
    return write_shard(path, INFO, values, [key(number) for number in numbers], failures)


def create(folder: Path) -> Store:
    store = Store(folder)
    with store.catalog.write(create=True):
        pass
    return store


@pytest.mark.parametrize("rows_at_once", [1, 5, 1_000_000])
def test_the_first_vector_and_the_last_failure_of_an_item_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr("clipstore.store.registry.ROWS_AT_ONCE", rows_at_once)
    store = create(tmp_path / "store")
    shards = [
        shard(store, "a", [1, 2, 3], {7: "first", 8: "unreadable"}),
        shard(store, "b", [3, 4], {7: "second"}),
        shard(store, "c", [5, 8]),
    ]
    with store.catalog.write() as session:
        register(session, iter([*shards, shards[1]]))
    rows = query_rows(store.root, "SELECT content, file[-4:-4] AS file, row FROM vectors JOIN shards USING (shard_id)")
    expected = [(1, "a", 0), (2, "a", 1), (3, "a", 2), (4, "b", 1), (5, "c", 0), (8, "c", 1)]
    assert sorted((int(row["content"], 16), row["file"], row["row"]) for row in rows) == expected
    failures = query_rows(store.root, "SELECT content, reason FROM item_failures")
    assert [(int(row["content"], 16), row["reason"]) for row in failures] == [(7, "second")]
    assert query_rows(store.root, "SELECT count(*) AS n FROM shards")[0]["n"] == 3
    assert query_rows(store.root, "SELECT sum(len(row_checksums)) AS n FROM shard_checksums")[0]["n"] == 7


def test_shards_are_registered_once(tmp_path: Path) -> None:
    store = create(tmp_path / "store")
    written = shard(store, "a", [1, 2])
    for _ in range(2):
        with store.catalog.write() as session:
            register(session, [written])
    assert query_rows(store.root, "SELECT count(*) AS n FROM vectors")[0]["n"] == 2
    assert query_rows(store.root, "SELECT count(*) AS n FROM shard_checksums")[0]["n"] == 1
