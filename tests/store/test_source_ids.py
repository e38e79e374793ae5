"""Exported ids are the source ids of the dataset: exports can be imported, whatever the ids look like."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipstore
from clipstore.errors import VectorError
from clipstore.store.vectors import source_ids

Run = Callable[..., Any]

SIZE = 12


@pytest.fixture
def permuted(cli: Run, import_vectors: Run, tmp_path: Path) -> None:
    """d/all: 12 images with two captions each, whose source ids are a permutation of the catalog's own ids.

    The model `m` has a distinct vector for each image, which its captions share up to noise, so that Recall@1 is 1.
    """
    rng = np.random.default_rng(4)
    images, captions = (rng.permutation(size) + 1 for size in (SIZE, 2 * SIZE))
    with (tmp_path / "d.csv").open("w", newline="") as file:
        rows = [(f"{n // 2}.jpg", f"caption {n}", images[n // 2], captions[n]) for n in range(2 * SIZE)]
        csv.writer(file).writerows([("image_path", "caption", "image_id", "caption_id"), *rows])
    cli("ingest", "csv", tmp_path / "d.csv")
    vectors = dict(zip(images.tolist(), np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0].astype(np.float32), strict=True))
    texts = {
        int(caption): vectors[int(images[n // 2])] + rng.normal(0, 1e-3, SIZE) for n, caption in enumerate(captions)
    }
    import_vectors("m", "d/all", vectors, texts)


def metrics(cli_json: Run, model: str) -> dict[str, float]:
    return cli_json("eval", "--model", model, "--split", "d/all")["evaluations"][0]["metrics"]


def import_npy(cli: Run, name: str, folder: Path, arrays: dict[str, Any]) -> None:
    words: list[object] = []
    for option, values in arrays.items():
        np.save(folder / f"{option}.npy", values)
        words += [f"--{option}", folder / f"{option}.npy"]
    cli("import", name, "--split", "d/all", *words)


def test_vectors_of_the_python_api_can_be_imported(
    permuted: None, cli: Run, cli_json: Run, store: Path, tmp_path: Path
) -> None:
    arrays: dict[str, Any] = {}
    for kind in ("images", "captions"):
        arrays[f"{kind[:-1]}-ids"], arrays[kind] = clipstore.open(store).vectors("m", "d/all", kind)
        catalog = clipstore.open(store).vectors("m", "d/all", kind, ids="catalog")[0]
        assert arrays[f"{kind[:-1]}-ids"].dtype == np.int64
        assert sorted(catalog) == sorted(arrays[f"{kind[:-1]}-ids"])  # import would accept either, as small integers
        assert catalog.tolist() != arrays[f"{kind[:-1]}-ids"].tolist()
    import_npy(cli, "imported", tmp_path, arrays)
    assert metrics(cli_json, "m")["rsum"] == 600
    assert metrics(cli_json, "imported") == metrics(cli_json, "m")


def test_exported_vectors_can_be_imported(permuted: None, cli: Run, cli_json: Run, tmp_path: Path) -> None:
    cli("export", "vectors", "--model", "m", "--split", "d/all", tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "metadata" / "metadata_0.parquet")
    assert table.column_names == ["image_path", "caption", "image_source_id", "caption_source_id"]
    images, first = np.unique(table["image_source_id"].to_numpy().astype(np.str_), return_index=True)
    arrays = {
        "images": np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy")[first],
        "image-ids": images,
        "captions": np.load(tmp_path / "out" / "text_emb" / "text_emb_0.npy"),
        "caption-ids": table["caption_source_id"].to_numpy().astype(np.str_),
    }
    import_npy(cli, "imported", tmp_path, arrays)
    assert metrics(cli_json, "imported") == metrics(cli_json, "m")


def test_queries_show_catalog_and_source_ids(permuted: None, cli_json: Run, sql: Run) -> None:
    cli_json("eval", "--model", "m", "--split", "d/all")
    source = {
        kind: {row["id"]: row["source_id"] for row in sql(f"SELECT {kind}_id AS id, source_id FROM {kind}s")}
        for kind in ("image", "caption")
    }
    sides = {"image_to_text": ("image", "caption"), "text_to_image": ("caption", "image")}
    for direction, (query, item) in sides.items():
        rows = cli_json("query", "retrieved", "-p", f"direction={direction}", "-p", "k=1", "-p", "limit=100")
        assert rows
        for row in rows:
            assert row["query_source_id"] == source[query][row["query_id"]]
            assert row["item_source_id"] == source[item][row["item_id"]]
        for row in cli_json("query", "ranks", "-p", f"direction={direction}", "-p", "limit=100"):
            assert row["query_source_id"] == source[query][row["query_id"]]
            assert row["wanted_source_id"] == source[item][row["wanted_id"]]
        for row in cli_json("query", "hubs", "-p", f"direction={direction}"):
            assert row["source_id"] == source[item][row["item_id"]]


@given(st.lists(st.one_of(st.integers(-(2**70), 2**70).map(str), st.text(st.characters(codec="utf-8"))), unique=True))
def test_source_ids_round_trip_through_import(ids: list[str]) -> None:
    """import identifies an item by str() of the element of a .npy array."""
    ids = [name for name in ids if not name.endswith("\0")]  # numpy strips trailing NULs
    array = source_ids(ids, "images of d/all")
    assert [str(name) for name in array.tolist()] == ids
    assert array.dtype.kind in "iU"


@pytest.mark.parametrize(
    ("ids", "kind"), [(["1", "-20"], "i"), (["1", "007"], "U"), (["1", "a"], "U"), ([str(2**63)], "U"), (["+1"], "U")]
)
def test_ids_are_integers_only_if_all_are(ids: list[str], kind: str) -> None:
    assert source_ids(ids, "images of d/all").dtype.kind == kind


def test_id_of_two_items_is_an_error() -> None:
    with pytest.raises(VectorError, match=r"two images of d/all have the source id '7'.*ids='catalog'"):
        source_ids(["7", "8", "7"], "images of d/all")


def test_hits_of_retrieve_have_both_ids(cli: Run, cli_json: Run, scenes: Path, sql: Run) -> None:
    cli("ingest", "coco", scenes, "--name", "s")
    cli("embed", "--model", "demo", "--split", "s/val")
    image_file = sql("SELECT path FROM images ORDER BY image_id LIMIT 1")[0]["path"]
    result = cli_json("retrieve", image_file, "a red circle", "--model", "demo", "--split", "s/val")
    source = {row["image_id"]: row["source_id"] for row in sql("SELECT image_id, source_id FROM images")}
    hits = [hit for query in result["queries"] for hit in query["answers"][0]["hits"]]
    assert len(hits) == 10
    assert all(hit["image_source_id"] == source[hit["image_id"]] for hit in hits)
