"""What a model is called: the path of its job, and a name that is taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]


def test_reports_and_queries_take_the_path_of_a_job(
    cli: Run, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("jobs").mkdir()
    Path("jobs/mine.toml").write_text('[model]\nfamily = "clip"\nbase = "bundled:demo"\n')
    draw_dataset(Path("drawn"), images=6, seed=1, split="val")
    cli("ingest", "coco", "drawn", "--name", "drawn")
    cli("embed", "--model", "mine", "--split", "drawn/val")
    cli("eval", "--model", "mine", "--split", "drawn/val")
    told = cli_json("report", "--model", "jobs/mine.toml", "--split", "drawn/val", "--map", "none")
    assert told["models"] == {"drawn/val": ["mine"]}
    table = cli("report", "--model", "jobs/mine.toml", "--split", "drawn/val", "--format", "md").stdout
    assert "mine" in table
    rows = cli_json("query", "evaluations", "-p", "model=jobs/mine.toml")
    assert [row["model"] for row in rows] == ["mine"]
    refused = cli("query", "evaluations", "-p", "model=jobs/other.toml", code=1).stderr
    assert "jobs/other.toml" in refused


def test_a_name_that_is_recorded_says_what_differs(cli: Run, small_clip: Path) -> None:
    cli("model", "add", "upright", "--base", small_clip, "--exif-orientation")
    told = cli("model", "add", "upright", "--base", small_clip, code=1).stderr
    assert "'upright' is recorded already, with exif_orientation True (not False): choose another name" in told
