"""`clipstore embed` embeds what is missing and no more: new, changed and lost items, options, and real data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_runs import all_embedded, all_reused, embed_towers, item_counts, shard_files
from helpers import query_rows, stored_vectors
from PIL import Image

from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]

SPLIT = "coco/val"


def test_embed_fills_both_towers_once(scene_store: Path, cli_json: Run) -> None:
    distinct = query_rows(scene_store, "SELECT count(DISTINCT text) AS n FROM captions")[0]["n"]
    first = embed_towers(cli_json, "--split", SPLIT)
    assert item_counts(first["image"]) == all_embedded(24)
    assert item_counts(first["text"]) == all_embedded(distinct)
    files = shard_files(scene_store)
    assert sum(row["size"] for row in first.values()) == sum((scene_store / name).stat().st_size for name in files)
    again = embed_towers(cli_json, "--split", SPLIT)
    assert (item_counts(again["image"]), item_counts(again["text"])) == (all_reused(24), all_reused(distinct))
    assert shard_files(scene_store) == files


def test_every_item_has_a_vector_of_unit_length(embedded_store: Path, cli_json: Run) -> None:
    images, texts = stored_vectors(embedded_store, "images"), stored_vectors(embedded_store, "captions")
    assert (images.shape, texts.shape) == ((24, 64), (120, 64))
    for values in (images, texts):
        assert values.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(values.astype(np.float64), axis=1), 1, atol=1e-6)


_LOADED_MODULES = """
import sys
from clipstore.cli import main
for store in sys.argv[1:]:
    main(["embed", "--model", "demo", "--store", store], standalone_mode=False)
    print("loaded", *[name for name in ("torch", "transformers", "peft", "h5py") if name in sys.modules])
"""


def test_a_run_without_pending_items_loads_no_torch(
    embedded_store: Path, prepared_scenes: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(prepared_scenes / "ingested", tmp_path / "other")
    words = [sys.executable, "-c", _LOADED_MODULES, str(embedded_store), str(other)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    nothing_pending, pending = (set(line.split()) for line in lines if line.startswith("loaded"))
    assert not nothing_pending & {"torch", "transformers", "peft"}
    assert "torch" in pending


def test_one_tower_alone(scene_store: Path, cli_json: Run) -> None:
    assert list(embed_towers(cli_json, "--only", "captions")) == ["text"]
    assert list(embed_towers(cli_json, "--only", "images")) == ["image"]
    assert stored_vectors(scene_store, "images").shape[0] == 24


def test_one_split_and_then_the_whole_catalog(cli: Run, cli_json: Run, scene_files: Path, store: Path) -> None:
    draw_dataset(scene_files, images=10, seed=5, split="more", first=25)
    cli("ingest", "coco", scene_files)
    assert item_counts(embed_towers(cli_json, "--split", SPLIT)["image"]) == all_embedded(24)
    rest = embed_towers(cli_json)["image"]
    assert (rest["reused"], rest["done"]) == (24, 10)
    assert stored_vectors(store, "images", split="coco/more").shape[0] == 10


def test_a_dry_run_writes_no_vectors(scene_store: Path, cli_json: Run) -> None:
    summary = embed_towers(cli_json, "--dry-run")
    assert (summary["image"]["planned"], summary["image"]["done"]) == (24, 0)
    assert summary["text"]["estimate"] > 0
    assert not shard_files(scene_store)
    assert query_rows(scene_store, "SELECT * FROM vectors") == []
    written = embed_towers(cli_json)
    assert item_counts(written["image"]) == all_embedded(24)
    for tower, row in written.items():
        assert summary[tower]["size"] == pytest.approx(row["size"], rel=0.05)


def test_a_dry_run_does_not_record_its_precision(cli: Run, cli_json: Run, scene_store: Path) -> None:
    embed_towers(cli_json, "--precision", "fp32")
    before = query_rows(scene_store, "SELECT * FROM towers ORDER BY ALL")
    assert embed_towers(cli_json, "--precision", "bf16", "--dry-run")["image"]["planned"] == 24
    assert query_rows(scene_store, "SELECT * FROM towers ORDER BY ALL") == before
    cli("eval", "--model", "demo", "--split", SPLIT)


def test_float16_vectors_are_the_rounded_float32_vectors(
    embedded_store: Path, cli_json: Run, scene_files: Path
) -> None:
    single = stored_vectors(embedded_store, "captions")
    shutil.rmtree(embedded_store / "shards")
    (embedded_store / "catalog.duckdb").unlink()
    cli_json("ingest", "coco", scene_files)
    embed_towers(cli_json, "--store-dtype", "float16")
    half = stored_vectors(embedded_store, "captions")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32), single, atol=6e-4)
    features = query_rows(embedded_store, "SELECT dtype FROM shards WHERE kind = 'features'")
    assert {row["dtype"] for row in features} == {"float32"}


def test_an_evaluation_names_the_types_that_were_ranked(cli_json: Run, scene_store: Path) -> None:
    embed_towers(cli_json, "--only", "images", "--store-dtype", "float16")
    embed_towers(cli_json)
    provenance = cli_json("eval", "--model", "demo", "--split", SPLIT)["evaluations"][0]["measured_on"]
    assert provenance["dtype"] == "float16/float32"


def test_less_memory_gives_the_same_vectors(
    scene_store: Path, cli: Run, cli_json: Run, scene_files: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    cli("ingest", "coco", scene_files, "--store", other)
    embed_towers(cli_json)
    embed_towers(cli_json, "--memory", "10MB", "--store", other)
    for items in ("images", "captions"):
        np.testing.assert_allclose(stored_vectors(other, items), stored_vectors(scene_store, items), atol=1e-5)


# ---- which items are embedded again ----


def test_images_with_the_same_bytes_share_a_vector(scene_files: Path, cli: Run, cli_json: Run, store: Path) -> None:
    one, other = sorted((scene_files / "val").iterdir())[:2]
    shutil.copy(one, other)
    cli("ingest", "coco", scene_files)
    assert item_counts(embed_towers(cli_json)["image"]) == all_embedded(23)
    values = stored_vectors(store, "images")
    assert np.array_equal(values[0], values[1])
    assert not np.allclose(values[0], values[2])
    rows = query_rows(store, "SELECT content FROM vectors JOIN shards USING (shard_id) WHERE tower = 'image'")
    assert len(rows) == 2 * 23  # vectors and features


def test_a_changed_image_gets_a_new_vector(embedded_store: Path, scene_files: Path, cli_json: Run) -> None:
    before = stored_vectors(embedded_store, "images")
    file = sorted((scene_files / "val").iterdir())[3]
    Image.open(file).transpose(Image.Transpose.ROTATE_180).save(file)
    again = embed_towers(cli_json)
    assert (again["image"]["done"], again["image"]["reused"], again["text"]["done"]) == (1, 23, 0)
    changed = np.abs(stored_vectors(embedded_store, "images") - before).max(axis=1) > 1e-6
    assert np.flatnonzero(changed).tolist() == [3]


def test_a_touched_image_file_keeps_its_vector(embedded_store: Path, scene_files: Path, cli_json: Run) -> None:
    for file in (scene_files / "val").iterdir():
        os.utime(file, ns=(1, 1))
    assert item_counts(embed_towers(cli_json)["image"]) == all_reused(24)


def test_a_changed_caption_gets_a_new_vector(embedded_store: Path, scene_files: Path, cli: Run, cli_json: Run) -> None:
    before = stored_vectors(embedded_store, "captions")
    file = scene_files / "annotations/captions_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["caption"] = "two wholly new words"
    file.write_text(json.dumps(content))
    cli("ingest", "coco", scene_files)
    again = embed_towers(cli_json)
    assert (again["image"]["done"], again["text"]["done"]) == (0, 1)
    assert (np.abs(stored_vectors(embedded_store, "captions") - before).max(axis=1) > 1e-6).sum() == 1


def test_a_missing_image_file_is_embedded_once_it_exists(scene_files: Path, cli: Run, cli_json: Run) -> None:
    file = sorted((scene_files / "val").iterdir())[0]
    content = file.read_bytes()
    file.unlink()
    cli("ingest", "coco", scene_files)
    first = embed_towers(cli_json)["image"]
    assert (first["done"], first["missing"]) == (23, 1)
    file.write_bytes(content)
    again = item_counts(embed_towers(cli_json)["image"])
    assert again == {"planned": 1, "done": 1, "reused": 23, "failed": 0, "missing": 0}


def test_the_vector_of_a_deleted_image_file_stays(cli_json: Run, scene_files: Path, embedded_store: Path) -> None:
    shutil.rmtree(scene_files / "val")
    assert embed_towers(cli_json, "--max-failed", "1")["image"]["missing"] == 24
    provenance = cli_json("eval", "--model", "demo", "--split", SPLIT)["evaluations"][0]["measured_on"]
    assert (provenance["images"], provenance["left_out_images"]) == (24, 0)


def test_a_lost_shard_is_recomputed(cli: Run, cli_json: Run, embedded_store: Path) -> None:
    before = stored_vectors(embedded_store, "images")
    shutil.rmtree(embedded_store / "shards")
    assert "embed or rerank again" in cli("eval", "--model", "demo", "--split", SPLIT, code=1).stderr
    summary = embed_towers(cli_json)
    assert (summary["image"]["lost_shards"], summary["text"]["lost_shards"]) == (2, 1)
    assert item_counts(summary["image"]) == all_embedded(24)
    np.testing.assert_allclose(stored_vectors(embedded_store, "images"), before, atol=1e-6)
    cli("eval", "--model", "demo", "--split", SPLIT)


# ---- real data ----


def embed_and_evaluate(cli: Run, cli_json: Run, model: str, *splits: str) -> dict[str, dict[str, Any]]:
    words = [word for split in splits for word in ("--split", split)]
    cli("embed", "--model", model, *words, "--max-failed", "1")
    return {split: cli_json("eval", "--model", model, "--split", split)["evaluations"][0] for split in splits}


def assert_coco_mini(cli: Run, cli_json: Run, model: str) -> None:
    evaluations = embed_and_evaluate(cli, cli_json, model, "coco/train2017", "coco/val2017")
    for split, images, captions in (("coco/train2017", 80, 400), ("coco/val2017", 79, 395)):
        provenance = evaluations[split]["measured_on"]
        assert (provenance["images"], provenance["captions"]) == (images, captions)
        assert (provenance["left_out_images"], provenance["left_out_captions"]) == (0, 0)
        assert 0 < evaluations[split]["metrics"]["rsum"] < 600


def test_coco_with_the_bundled_model(test_data: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", test_data / "coco-mini")
    assert_coco_mini(cli, cli_json, "demo")


@pytest.mark.full
def test_coco_with_a_model_of_full_size(test_data: Path, cli: Run, cli_json: Run, full_clip: Path) -> None:
    cli("ingest", "coco", test_data / "coco-mini")
    cli("model", "add", "b32", "--base", full_clip)
    assert_coco_mini(cli, cli_json, "b32")


def assert_flickr8k(cli: Run, cli_json: Run, model: str) -> None:
    provenance = embed_and_evaluate(cli, cli_json, model, "flickr8k/test")["flickr8k/test"]["measured_on"]
    assert (provenance["images"], provenance["captions"]) == (1000, 5000)
    assert provenance["left_out_images"] == 0


@pytest.mark.full
def test_flickr_with_the_bundled_model(test_data: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    assert_flickr8k(cli, cli_json, "demo")


@pytest.mark.full
def test_image_files_that_are_not_on_disk_are_left_out(test_data: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    summary = embed_towers(cli_json, "--split", "flickr8k/all", "--max-failed", "1")["image"]
    distinct = {sha256(file.read_bytes()).digest() for file in (test_data / "flickr8k").glob("*/*.jpg")}
    assert (summary["done"], summary["missing"]) == (len(distinct), 8092 - 2800)
    provenance = cli_json("eval", "--model", "demo", "--split", "flickr8k/all")["evaluations"][0]["measured_on"]
    assert (provenance["images"], provenance["captions"]) == (2800, 14_000)
    assert (provenance["left_out_images"], provenance["left_out_captions"]) == (8092 - 2800, 40_460 - 14_000)


@pytest.mark.full
def test_flickr_with_a_model_of_full_size(test_data: Path, cli: Run, cli_json: Run, full_clip: Path) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    cli("model", "add", "b32", "--base", full_clip)
    assert_flickr8k(cli, cli_json, "b32")
