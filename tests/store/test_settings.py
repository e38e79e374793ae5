"""The settings of a store: its id and the place of its shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from clipstore.errors import StoreError
from clipstore.store.layout import Store
from clipstore.store.settings import read_settings, store_id

Run = Callable[..., Result]


def settings_of(store: Path) -> dict[str, Any]:
    return json.loads((store / "store.json").read_text())


def test_init_creates_a_store_and_keeps_its_id(cli_json: Callable[..., Any], store: Path) -> None:
    first = cli_json("store", "init")
    assert first == {"store": str(store), "id": settings_of(store)["id"], "shards": None}
    assert settings_of(store) == {"format": 1, "id": first["id"]}
    assert cli_json("store", "init") == first
    assert cli_json("info")["counts"]["images"] == 0


def test_ingest_gives_a_store_an_id_that_a_rebuild_and_a_copy_keep(cli: Run, store: Path, scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "s")
    settings = settings_of(store)
    assert len(settings["id"]) == 32
    cli("catalog", "rebuild")
    assert settings_of(store) == settings
    shutil.copytree(store, store.with_name("copy"))
    assert store_id(Store(store.with_name("copy"))) == settings["id"]


def test_a_store_without_settings_gets_one_id_by_many_threads(store: Path) -> None:
    assert read_settings(Store(store)) is None
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(store_id, [Store(store)] * 32))
    assert ids == {settings_of(store)["id"]}


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1, "id": "x"}', '{"format": 2, "id": "%s"}' % ("0" * 32)])
def test_settings_that_cannot_be_read_are_an_error_that_names_the_file(cli: Run, store: Path, content: str) -> None:
    store.mkdir()
    (store / "store.json").write_text(content)
    with pytest.raises(StoreError, match=r"store\.json"):
        read_settings(Store(store))
    assert "store.json" in cli("store", "init", code=1).stderr


@pytest.mark.parametrize("url", ["bucket/prefix", "ftp://host/x", "s3://", "s3:///x", "s3://b/../x", "s3://b/a b"])
def test_a_location_that_is_no_url_of_object_storage_is_refused(cli: Run, url: str) -> None:
    assert "s3://BUCKET/PREFIX" in cli("store", "init", "--shards", url, code=1).stderr
