"""Models given by the path of a job, and names that are in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]


@pytest.mark.full
def test_reports_and_queries_accept_the_path_of_a_job(
    cli: Run, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("jobs").mkdir()
    Path("jobs/custom.toml").write_text('[model]\nfamily = "clip"\nbase = "bundled:demo"\n')
    draw_dataset(Path("drawn"), images=6, seed=1, split="val")
    cli("ingest", "coco", "drawn", "--name", "drawn")
    cli("embed", "--model", "custom", "--split", "drawn/val")
    cli("eval", "--model", "custom", "--split", "drawn/val")
    result = cli_json("report", "--model", "jobs/custom.toml", "--split", "drawn/val", "--map", "none")
    assert result["models"] == {"drawn/val": ["custom"]}
    table = cli("report", "--model", "jobs/custom.toml", "--split", "drawn/val", "--format", "md").stdout
    assert "custom" in table
    rows = cli_json("query", "evaluations", "-p", "model=jobs/custom.toml")
    assert [row["model"] for row in rows] == ["custom"]
    error = cli("query", "evaluations", "-p", "model=jobs/other.toml", code=1).stderr
    assert "jobs/other.toml" in error


def test_error_of_a_recorded_name_names_the_difference(cli: Run, small_clip: Path) -> None:
    cli("model", "add", "upright", "--base", small_clip, "--exif-orientation")
    error = cli("model", "add", "upright", "--base", small_clip, code=1).stderr
    assert "'upright' is recorded already, with exif_orientation True (not False)" in error
