"""Several devices: one worker process each gives the shards that this process gives."""

from __future__ import annotations

import os
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
from clipstore.errors import OptionError
from clipstore.inference.worker_handle import Deadlines
from clipstore.pipeline.embed import plan
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.store.layout import Store

Run = Callable[..., Any]
IMAGES = 150
POISON = "000000000120.jpg"


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


def embed_with_reader(reader: str, store: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Embed in a new process, which must end too, although plan groups may be left in the queues."""
    embed(Store(store), ["demo"], EmbedOptions(dry_run=True, only="images"))  # checks the image files
    words = [sys.executable, "-c", _WITH_READER, reader, str(store)]
    variables = os.environ | {"MARKER": str(tmp_path / "marker"), "CLIPSTORE_WORKER_DEADLINE": "8", "POISON": POISON}
    return subprocess.run(words, cwd=TESTS, env=variables, capture_output=True, text=True, check=False, timeout=400)


@pytest.mark.full
def test_an_error_in_a_worker_ends_the_run(small_dataset: Path, cli: Run, store: Path, tmp_path: Path) -> None:
    cli("ingest", "coco", small_dataset)
    process = embed_with_reader("fails", store, tmp_path)
    assert process.returncode == 1
    assert "a mistake about" in process.stderr


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        pytest.param("stops_once", "stopped: ", marks=pytest.mark.full),
        pytest.param("dies_once", "ended by signal SIGKILL", marks=pytest.mark.full),
    ],
)
def test_the_plans_of_a_lost_worker_are_tried_again(
    reader: str, reason: str, small_dataset: Path, cli: Run, store: Path, tmp_path: Path
) -> None:
    cli("ingest", "coco", small_dataset)
    process = embed_with_reader(reader, store, tmp_path)
    assert (process.returncode, process.stdout) == (0, ""), process.stderr
    assert f"the process on cpu {reason}" in process.stderr
    assert "trying its items again" in process.stderr
    assert stored_vectors(store, "images").shape[0] == IMAGES
    assert not list((store / "shards").rglob(".*.tmp"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        ("dies_of_one", "the process that encoded it ended by signal SIGKILL, twice"),
        ("stops_at_one", "the process that encoded it stopped: it has sent nothing"),
    ],
)
def test_an_image_that_ends_its_worker_is_the_only_failed_item(
    reader: str, reason: str, small_dataset: Path, cli: Run, cli_json: Run, store: Path, tmp_path: Path
) -> None:
    cli("ingest", "coco", small_dataset)
    process = embed_with_reader(reader, store, tmp_path)
    assert process.returncode == 0, process.stderr
    (row,) = cli_json("query", "item_failures")
    assert row["reason"].startswith(reason)
    assert Path(row["item"]).name == POISON
    cli("embed", "--model", "demo", "--only", "images", code=3)
    cli("embed", "--model", "demo", "--only", "images", "--retry-failed")


@pytest.mark.full
def test_the_run_ends_where_every_image_ends_its_worker(
    small_dataset: Path, cli: Run, cli_json: Run, store: Path, tmp_path: Path
) -> None:
    cli("ingest", "coco", small_dataset)
    process = embed_with_reader("dies", store, tmp_path)
    assert process.returncode == 1
    assert "items ended the process that encoded them" in process.stderr
    assert len(cli_json("query", "item_failures")) == 8


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_the_deadline_is_a_positive_number(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSTORE_WORKER_DEADLINE", value)
    with pytest.raises(OptionError, match="must be a positive number of seconds"):
        Deadlines.from_environment()


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
