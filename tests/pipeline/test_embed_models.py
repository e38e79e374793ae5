"""`clipstore embed` at several precisions, and of several models at once, which share images and features."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from clip_folder import build_clip, build_headed_lora, build_lora
from helpers import query_rows, stored_vectors

from clipstore.demo.scenes import draw_dataset
from clipstore.device import best_precision
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.store.layout import Store

Run = Callable[..., Any]


@pytest.fixture
def ingested(cli: Run, scenes: Path, store: Path) -> Path:
    cli("ingest", "coco", scenes)
    return store


class CountingReader:
    """Reads files and counts them."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, path: Path) -> bytes:
        with self._lock:
            self.reads[path.name] += 1
        return path.read_bytes()


# ---- precision ----


def test_auto_is_the_best_precision_of_the_cpu_and_is_compared_with_fp32(
    ingested: Path, cli: Run, cli_json: Run, scenes: Path, tmp_path: Path
) -> None:
    best = best_precision("cpu")
    image, text = cli_json("embed", "--model", "demo")["embedded"]
    assert {row["precision"] for row in query_rows(ingested, "SELECT precision FROM towers")} == {best}
    checks = {row["items"]: row["least_cosine"] for row in query_rows(ingested, "SELECT * FROM precision_checks")}
    if best == "fp32":
        assert (checks, image["least_cosine"], text["least_cosine"]) == ({}, None, None)
        return
    assert sorted(checks.values()) == sorted([image["least_cosine"], text["least_cosine"]])
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--store", exact)
    for items, summary in (("images", image), ("captions", text)):
        cosines = least_cosines(ingested, exact, items)
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
    compiled: bool, ingested: Path, cli: Run, scenes: Path, tmp_path: Path
) -> None:
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--device", "cpu", "--store", exact)
    words = ["--compile"] if compiled else []
    cli("embed", "--model", "demo", "--device", "cuda", *words)
    assert {row["precision"] for row in query_rows(ingested, "SELECT precision FROM towers")} == {"fp16"}
    for items in ("images", "captions"):
        assert least_cosines(ingested, exact, items).min() > 0.999


# ---- several models ----


def test_models_with_one_vision_tower_decode_each_image_once(
    ingested: Path, cli: Run, small_clip: Path, tmp_path: Path
) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=r".*text_model.*q_proj")
    headed = build_headed_lora(small_clip, tmp_path / "headed")
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "tuned", "--base", small_clip, "--adapter", tuned)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", headed)
    reader = CountingReader()
    summaries = embed(Store(ingested), ["plain", "tuned", "headed"], EmbedOptions(precision="fp32", read=reader))
    assert set(reader.reads.values()) == {2}  # once for the content key, once to decode
    counts = {(summary.model, summary.tower): (summary.done, summary.reused) for summary in summaries}
    assert counts["plain", "image"] == counts["headed", "image"] == (24, 0)
    assert counts["tuned", "image"] == (0, 24)
    plain = stored_vectors(ingested, "images", model="plain")
    assert np.array_equal(plain, stored_vectors(ingested, "images", model="tuned"))
    np.testing.assert_allclose(stored_vectors(ingested, "images", model="headed"), plain[:, ::-1], atol=1e-6)


def test_models_with_two_vision_towers_decode_each_image_once(
    ingested: Path, cli: Run, scenes: Path, small_clip: Path, tmp_path: Path
) -> None:
    """Together, each model gets the vectors that it gets alone."""
    other = build_clip(tmp_path / "other", small=True, seed=1)
    alone = tmp_path / "alone"
    cli("ingest", "coco", scenes, "--store", alone)
    for name, base in (("one", small_clip), ("two", other)):
        for place in (ingested, alone):
            cli("model", "add", name, "--base", base, "--store", place)
        cli("embed", "--model", name, "--precision", "fp32", "--store", alone)
    reader = CountingReader()
    embed(Store(ingested), ["one", "two", "demo"], EmbedOptions(precision="fp32", read=reader))
    assert set(reader.reads.values()) == {2}
    for name in ("one", "two"):
        for items in ("images", "captions"):
            together, expected = (stored_vectors(place, items, model=name) for place in (ingested, alone))
            np.testing.assert_allclose(together, expected, atol=1e-6)


def test_models_that_do_not_fit_into_memory_together_take_turns(
    ingested: Path, cli: Run, small_clip: Path, tmp_path: Path
) -> None:
    other = build_clip(tmp_path / "other", small=True, seed=1)
    for name, base in (("one", small_clip), ("two", other)):
        cli("model", "add", name, "--base", base)
    reader = CountingReader()
    summaries = embed(Store(ingested), ["one", "two"], EmbedOptions(precision="fp32", read=reader, memory=2**20))
    assert set(reader.reads.values()) == {3}
    assert [summary.done for summary in summaries if summary.tower == "image"] == [24, 24]


def test_lost_features_are_recomputed_for_each_model(
    cli: Run, cli_json: Run, scenes: Path, small_clip: Path, store: Path, tmp_path: Path
) -> None:
    """Also where the first model of the backbone has its vectors: training needs the features."""
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    cli("ingest", "coco", root)
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", build_headed_lora(small_clip, tmp_path / "headed"))
    cli("embed", "--model", "plain", "--precision", "fp32")
    for row in query_rows(store, "SELECT file FROM shards WHERE kind = 'features'"):
        (store / row["file"]).unlink()
    draw_dataset(root, images=10, seed=5, split="more", first=25)
    cli("ingest", "coco", root)
    rows = cli_json("embed", "--model", "plain", "--model", "headed", "--precision", "fp32")["embedded"]
    assert [(row["model"], row["done"]) for row in rows if row["tower"] == "image"] == [("plain", 34), ("headed", 34)]


def test_a_dry_run_plans_a_shared_tower_once(ingested: Path, cli: Run, cli_json: Run, small_clip: Path) -> None:
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
