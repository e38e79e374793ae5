"""`clipstore embed` at several precisions, and of several models at once, which share images and features."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from clip_folder import build_clip, build_headed_lora, build_lora
from counting_reader import CountingReader
from embed_runs import all_embedded, all_reused, embed_towers, item_counts, shard_files
from helpers import query_rows, stored_vectors
from safetensors.numpy import load_file, save_file

from clipstore.demo.scenes import draw_dataset
from clipstore.device import best_precision
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.shards import normalize
from clipstore.store.layout import Store

Run = Callable[..., Any]


# ---- precision ----


def test_auto_is_the_best_precision_of_the_cpu_and_is_compared_with_fp32(
    scene_store: Path, cli: Run, cli_json: Run, scenes: Path, tmp_path: Path
) -> None:
    best = best_precision("cpu")
    image, text = cli_json("embed", "--model", "demo")["embedded"]
    assert {row["precision"] for row in query_rows(scene_store, "SELECT precision FROM towers")} == {best}
    checks = {row["items"]: row["least_cosine"] for row in query_rows(scene_store, "SELECT * FROM precision_checks")}
    if best == "fp32":
        assert (checks, image["least_cosine"], text["least_cosine"]) == ({}, None, None)
        return
    assert sorted(checks.values()) == sorted([image["least_cosine"], text["least_cosine"]])
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--store", exact)
    for items, summary in (("images", image), ("captions", text)):
        cosines = least_cosines(scene_store, exact, items)
        assert cosines.min() - 1e-6 <= summary["least_cosine"] < 1
        assert cosines.min() > 0.99
    towers = cli_json("model", "show", "demo")["towers"]
    assert sorted(row["least_cosine_to_fp32"] for row in towers) == sorted(checks.values())


def least_cosines(one: Path, other: Path, items: str) -> np.ndarray[Any, Any]:
    """The cosine similarity of each item's vectors in two stores."""
    return (stored_vectors(one, items).astype(np.float64) * stored_vectors(other, items).astype(np.float64)).sum(axis=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_gives_the_vectors_of_the_cpu(
    compiled: bool, scene_store: Path, cli: Run, scenes: Path, tmp_path: Path
) -> None:
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--device", "cpu", "--store", exact)
    words = ["--compile"] if compiled else []
    cli("embed", "--model", "demo", "--device", "cuda", *words)
    assert {row["precision"] for row in query_rows(scene_store, "SELECT precision FROM towers")} == {"fp16"}
    for items in ("images", "captions"):
        assert least_cosines(scene_store, exact, items).min() > 0.999


# ---- several models ----


def test_models_with_one_vision_tower_decode_each_image_once(
    scene_store: Path, cli: Run, small_clip: Path, tmp_path: Path
) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=r".*text_model.*q_proj")
    headed = build_headed_lora(small_clip, tmp_path / "headed")
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "tuned", "--base", small_clip, "--adapter", tuned)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", headed)
    reader = CountingReader()
    summaries = embed(Store(scene_store), ["plain", "tuned", "headed"], EmbedOptions(precision="fp32", read=reader))
    assert set(reader.reads.values()) == {2}  # once for the content key, once to decode
    counts = {(summary.model, summary.tower): (summary.done, summary.reused) for summary in summaries}
    assert counts["plain", "image"] == counts["headed", "image"] == (24, 0)
    assert counts["tuned", "image"] == (0, 24)
    plain = stored_vectors(scene_store, "images", model="plain")
    assert np.array_equal(plain, stored_vectors(scene_store, "images", model="tuned"))
    np.testing.assert_allclose(stored_vectors(scene_store, "images", model="headed"), plain[:, ::-1], atol=1e-6)


@pytest.mark.full
def test_models_with_two_vision_towers_decode_each_image_once(
    scene_store: Path, cli: Run, scenes: Path, small_clip: Path, tmp_path: Path
) -> None:
    """Together, each model gets the vectors that it gets alone."""
    other = build_clip(tmp_path / "other", small=True, seed=1)
    alone = tmp_path / "alone"
    cli("ingest", "coco", scenes, "--store", alone)
    for name, base in (("one", small_clip), ("two", other)):
        for place in (scene_store, alone):
            cli("model", "add", name, "--base", base, "--store", place)
        cli("embed", "--model", name, "--precision", "fp32", "--store", alone)
    reader = CountingReader()
    embed(Store(scene_store), ["one", "two", "demo"], EmbedOptions(precision="fp32", read=reader))
    assert set(reader.reads.values()) == {2}
    for name in ("one", "two"):
        for items in ("images", "captions"):
            together, expected = (stored_vectors(place, items, model=name) for place in (scene_store, alone))
            np.testing.assert_allclose(together, expected, atol=1e-6)


def test_models_that_do_not_fit_into_memory_together_take_turns(
    scene_store: Path, cli: Run, small_clip: Path, tmp_path: Path
) -> None:
    other = build_clip(tmp_path / "other", small=True, seed=1)
    for name, base in (("one", small_clip), ("two", other)):
        cli("model", "add", name, "--base", base)
    reader = CountingReader()
    summaries = embed(Store(scene_store), ["one", "two"], EmbedOptions(precision="fp32", read=reader, memory=2**20))
    assert set(reader.reads.values()) == {3}
    assert [summary.done for summary in summaries if summary.tower == "image"] == [24, 24]


@pytest.mark.full
def test_lost_features_are_recomputed_for_each_model(
    cli: Run, cli_json: Run, scenes: Path, small_clip: Path, store: Path, tmp_path: Path
) -> None:
    """Also where the first model of the backbone has its vectors: training needs the features."""
    scene_files = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    cli("ingest", "coco", scene_files)
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", build_headed_lora(small_clip, tmp_path / "headed"))
    cli("embed", "--model", "plain", "--precision", "fp32")
    for row in query_rows(store, "SELECT file FROM shards WHERE kind = 'features'"):
        (store / row["file"]).unlink()
    draw_dataset(scene_files, images=10, seed=5, split="more", first=25)
    cli("ingest", "coco", scene_files)
    rows = cli_json("embed", "--model", "plain", "--model", "headed", "--precision", "fp32")["embedded"]
    assert [(row["model"], row["done"]) for row in rows if row["tower"] == "image"] == [("plain", 34), ("headed", 34)]


def test_a_dry_run_plans_a_shared_tower_once(scene_store: Path, cli: Run, cli_json: Run, small_clip: Path) -> None:
    """Two names of one model: the second one's items count as reused, as after a real run."""
    for name in ("one", "two"):
        cli("model", "add", name, "--base", small_clip)
    words = ("embed", "--model", "one", "--model", "two", "--precision", "fp32")
    for dry in (["--dry-run"], []):
        counts = {(row["model"], row["tower"]): row for row in cli_json(*words, *dry)["embedded"]}
        assert counts["one", "image"]["planned"] == 24
        assert (counts["two", "image"]["planned"], counts["two", "image"]["reused"]) == (0, 24)
        assert counts["two", "text"]["planned"] == 0
        assert counts["two", "text"]["reused"] == counts["one", "text"]["planned"]


# ---- one model after another ----


@pytest.fixture
def other_head(small_clip: Path, tmp_path: Path) -> Path:
    """The small model with another image projection head."""
    folder = Path(shutil.copytree(small_clip, tmp_path / "headed"))
    tensors = load_file(folder / "model.safetensors")
    head = np.random.default_rng(4).normal(size=tensors["visual_projection.weight"].shape)
    tensors["visual_projection.weight"] = head.astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def destroy(root: Path) -> None:
    """Overwrite image files with zeros, without changing their sizes and modification times."""
    for file in (root / "val").iterdir():
        status = file.stat()
        file.write_bytes(bytes(status.st_size))
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_model_with_another_head_decodes_no_image(
    scene_store: Path, scene_files: Path, cli: Run, cli_json: Run, small_clip: Path, other_head: Path
) -> None:
    cli("model", "add", "small", "--base", small_clip)
    cli("model", "add", "headed", "--base", other_head)
    embed_towers(cli_json, "--precision", "fp32", model="small")
    before = shard_files(scene_store)
    destroy(scene_files)
    summary = embed_towers(cli_json, "--precision", "fp32", model="headed")
    assert item_counts(summary["image"]) == all_embedded(24)
    assert summary["text"]["planned"] == 0
    after = shard_files(scene_store)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    features = query_rows(scene_store, "SELECT file FROM shards WHERE kind = 'features'")
    with h5py.File(scene_store / features[0]["file"]) as file:
        expected = file["values"][:] @ load_file(other_head / "model.safetensors")["visual_projection.weight"].T
    np.testing.assert_allclose(
        stored_vectors(scene_store, "images", model="headed"), normalize(expected, "float32"), atol=1e-6
    )


def test_a_model_with_a_tuned_text_tower_embeds_no_image(
    scene_store: Path, scene_files: Path, cli: Run, cli_json: Run, small_clip: Path, tmp_path: Path
) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=r".*text_model.*q_proj")
    cli("model", "add", "small", "--base", small_clip)
    cli("model", "add", "tuned", "--base", small_clip, "--adapter", tuned)
    embed_towers(cli_json, model="small")
    destroy(scene_files)
    summary = embed_towers(cli_json, model="tuned")
    assert item_counts(summary["image"]) == all_reused(24)
    assert summary["text"]["done"] == summary["text"]["planned"] > 0
    assert np.array_equal(
        stored_vectors(scene_store, "images", model="tuned"), stored_vectors(scene_store, "images", model="small")
    )
    difference = stored_vectors(scene_store, "captions", model="tuned") - stored_vectors(
        scene_store, "captions", model="small"
    )
    assert np.abs(difference).max(axis=1).min() > 1e-6


def test_missing_and_truncated_weights_are_an_error_of_one_line(scene_store: Path, cli: Run, other_head: Path) -> None:
    cli("model", "add", "headed", "--base", other_head)
    os.truncate(other_head / "model.safetensors", 1_000_000)
    error = cli("embed", "--model", "headed", code=1).stderr
    assert "model.safetensors is not a safetensors file, or is cut short" in error
    (other_head / "model.safetensors").unlink()
    assert "no model.safetensors" in cli("embed", "--model", "headed", code=1).stderr


@pytest.mark.full
def test_items_are_embedded_again_after_a_change_of_weights(
    scene_store: Path, cli: Run, cli_json: Run, other_head: Path
) -> None:
    cli("model", "add", "tuned", "--base", other_head)
    embed_towers(cli_json, model="tuned")
    before = stored_vectors(scene_store, "captions", model="tuned")
    tensors = load_file(other_head / "model.safetensors")
    tensors["text_projection.weight"] = tensors["text_projection.weight"][::-1].copy()
    save_file(tensors, other_head / "model.safetensors", metadata={"format": "pt"})
    again = embed_towers(cli_json, model="tuned")
    assert (item_counts(again["image"]), again["text"]["reused"]) == (all_reused(24), 0)
    np.testing.assert_allclose(stored_vectors(scene_store, "captions", model="tuned"), before[:, ::-1], atol=1e-6)


def test_a_prompt_changes_only_the_texts(
    scene_store: Path, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    job = '[model]\nbase = "bundled:demo"\nprompt = "a photo of {}"\n'
    (tmp_path / "jobs/prompted.toml").write_text(job)
    monkeypatch.chdir(tmp_path)
    embed_towers(cli_json)
    summary = embed_towers(cli_json, model="prompted")
    assert item_counts(summary["image"]) == all_reused(24)
    assert summary["text"]["reused"] == 0
    difference = stored_vectors(scene_store, "captions", model="prompted") - stored_vectors(scene_store, "captions")
    assert np.abs(difference).max(axis=1).min() > 1e-4


@pytest.mark.full
def test_auto_is_the_precision_of_the_last_run(scene_store: Path, cli_json: Run) -> None:
    embed_towers(cli_json, "--precision", "fp32")
    assert embed_towers(cli_json, "--precision", "bf16")["image"]["reused"] == 0
    assert item_counts(embed_towers(cli_json)["image"]) == all_reused(24)
    assert {row["precision"] for row in query_rows(scene_store, "SELECT precision FROM towers")} == {"bf16"}
    assert item_counts(embed_towers(cli_json, "--precision", "fp32")["image"]) == all_reused(24)
