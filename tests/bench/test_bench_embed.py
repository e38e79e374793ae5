"""`clipstore bench embed`, and the speed and memory of embedding; the tests that measure are marked full."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipstore.device import best_precision

Run = Callable[..., Any]


@pytest.mark.full
def test_bench_embed_reports_rates_and_their_shares(cli: Run, cli_json: Run, scenes: Path) -> None:
    cli("ingest", "coco", scenes)
    words = ("--split", "coco/val", "--images", 4, "--captions", 8, "--repeat", 1, "--read-delay", 0.001)
    result = cli_json("bench", "embed", *words)
    assert (result["images"], result["captions"], result["photos"]) == (4, 8, "coco/val")
    assert result["precision"] == best_precision("cpu")
    limit = 1 / (1 / result["decode_alone"] + 1 / result["image_forward_alone"])
    assert result["image_limit"] == pytest.approx(limit)
    assert result["image_share"] == pytest.approx(result["images_per_second"] / limit)
    assert result["text_share"] == pytest.approx(result["captions_per_second"] / result["text_forward_alone"])
    assert result["delayed_share"] > 0
    assert "unknown split" in cli("bench", "embed", "--split", "no/such", code=1).stderr


@pytest.mark.full
def test_bench_embed_draws_images_without_a_split(cli: Run) -> None:
    shown = cli("bench", "embed", "--images", 8, "--captions", 40, "--repeat", 1).stdout
    assert re.search(r"images: drawn; captions of \d+\.\d tokens", shown)


@pytest.fixture
def coco_mini(test_data: Path, cli: Run) -> tuple[str, ...]:
    cli("ingest", "coco", test_data / "coco-mini")
    return ("--split", "coco/train2017", "--split", "coco/val2017")


@pytest.mark.full
def test_images_reach_the_limit_of_decoding_and_the_model(coco_mini: tuple[str, ...], timed: Run) -> None:
    words = ("bench", "embed", *coco_mini, "--captions", 10, "--read-delay", 0.01, "--json")
    result = json.loads(timed(*words).stdout)
    assert result["image_share"] > 0.95
    assert result["delayed_share"] > 0.9


@pytest.mark.full
def test_captions_reach_the_rate_of_the_model(test_data: Path, cli: Run, timed: Run) -> None:
    cli("ingest", "coco", test_data / "coco-captions")
    words = ("bench", "embed", "--split", "coco/val2017", "--images", 4, "--captions", 25_014, "--repeat", 1, "--json")
    result = json.loads(timed(*words).stdout)
    assert result["captions"] > 24_000  # distinct ones
    assert result["text_share"] > 0.9


@pytest.mark.full
def test_a_run_without_pending_items_takes_no_time(test_data: Path, cli: Run, timed: Run) -> None:
    cli("ingest", "coco", test_data / "coco-captions")
    words = ("embed", "--model", "demo")
    cli(*words, code=1)  # the images are not among the test data
    both = cli(*words, "--json", code=1)
    assert [row["planned"] for row in json.loads(both.stdout)["embedded"]] == [0, 0]
    again = timed(*words, "--json", "--only", "captions")
    assert [row["planned"] for row in json.loads(again.stdout)["embedded"]] == [0]
    assert again.seconds < 3


@pytest.mark.full
def test_memory_does_not_grow_with_the_number_of_items(tmp_path: Path, cli: Run, timed: Run) -> None:
    """1,000 and 100,000 small images, each with a caption of its own."""
    rng = np.random.default_rng(0)
    peaks = []
    for items in (1_000, 100_000):
        folder = tmp_path / str(items)
        folder.mkdir()
        lines = ["image_path,caption"]
        for number in range(items):
            Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
            lines.append(f"{number}.jpg,picture number {number}")
        (folder / "items.csv").write_text("\n".join(lines))
        store = ("--store", folder / "store")
        cli("ingest", "csv", folder / "items.csv", *store)
        peaks.append(timed("embed", "--model", "demo", *store).peak_bytes)
        rows = json.loads(timed("embed", "--model", "demo", "--json", *store).stdout)["embedded"]
        assert [(row["reused"], row["planned"]) for row in rows] == [(items, 0), (items, 0)]
        shutil.rmtree(folder)
    assert peaks[1] - peaks[0] < 200e6, peaks
