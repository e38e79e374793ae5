"""Several devices: one worker process each gives the shards that this process gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_readers import SMALL_SHARDS
from clip_folder import build_headed_lora
from helpers import TESTS, stored_vectors

from clipstore.demo.scenes import draw_dataset
from clipstore.pipeline.embed import plan
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.store.layout import Store

Run = Callable[..., Any]
IMAGES = 150


@pytest.fixture(scope="module")
def large_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset whose images fill two shards."""
    root = tmp_path_factory.mktemp("large")
    draw_dataset(root, images=1100, seed=5, split="val")
    return root


@pytest.fixture(scope="module")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset whose images fill two of `small_shards`."""
    root = tmp_path_factory.mktemp("small")
    draw_dataset(root, images=IMAGES, seed=5, split="val")
    return root


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "ITEMS_PER_SHARD", SMALL_SHARDS)


def shard_files(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in (store / "shards").rglob("*.h5")}


@pytest.mark.usefixtures("small_shards")
def test_two_processes_write_the_shards_of_one(small_dataset: Path, cli: Run, cli_json: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    summaries = {}
    for place, devices in ((one, ["cpu"]), (two, ["cpu", "cpu"])):
        cli("ingest", "coco", small_dataset, "--store", place)
        words = [word for device in devices for word in ("--device", device)]
        (summaries[place],) = cli_json("embed", "--model", "demo", "--only", "images", *words, "--store", place)[
            "embedded"
        ]
    assert (summaries[one]["done"], summaries[two]["done"]) == (IMAGES, IMAGES)
    assert summaries[two]["clock"]["forward"] > 0
    assert len(shard_files(one)) == 4
    assert shard_files(one) == shard_files(two)
    np.testing.assert_allclose(stored_vectors(one, "images"), stored_vectors(two, "images"), atol=1e-5)


_WITH_READER = "import sys; from broken_readers import embed_with; embed_with(sys.argv[1], sys.argv[2])"


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("dies", "the process on cpu ended unexpectedly (exit code -9): run the same command again"),
        ("fails", "a mistake about"),
    ],
)
def test_a_failing_worker_ends_the_run(reader: str, message: str, small_dataset: Path, cli: Run, store: Path) -> None:
    """In a new process, which must end too, although plan groups are left in the queue."""
    cli("ingest", "coco", small_dataset)
    embed(Store(store), ["demo"], EmbedOptions(dry_run=True, only="images"))  # checks the image files
    words = [sys.executable, "-c", _WITH_READER, reader, str(store)]
    process = subprocess.run(words, cwd=TESTS, capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 1
    assert message in process.stderr


@pytest.mark.full
def test_two_devices_for_a_model_with_pending_features_and_captions(
    large_dataset: Path, cli: Run, cli_json: Run, small_clip: Path, tmp_path: Path, store: Path
) -> None:
    cli("ingest", "coco", large_dataset)
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", build_headed_lora(small_clip, tmp_path / "headed"))
    cli("embed", "--model", "plain", "--only", "images")
    rows = cli_json("embed", "--model", "headed", "--device", "cpu", "--device", "cpu")["embedded"]
    assert [row["done"] == row["planned"] > 0 for row in rows] == [True, True]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_share_the_plans(large_dataset: Path, cli: Run, cli_json: Run, store: Path) -> None:
    cli("ingest", "coco", large_dataset)
    rows = cli_json("embed", "--model", "demo", "--device", "cuda:0", "--device", "cuda:1")["embedded"]
    assert rows[0]["done"] == 1100
