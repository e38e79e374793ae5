"""Without --model, complete models are evaluated and the others are skipped and reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import other_precision

Run = Callable[..., Result]
RunJson = Callable[..., Any]


@pytest.fixture
def vectors(cli: Run, tmp_path: Path) -> dict[int, Any]:
    """g/all has ten images with a caption each; their vectors."""
    rows = "".join(f"{number}.jpg,this is {number},{number},{number}\n" for number in range(10))
    (tmp_path / "g.csv").write_text("image_path,caption,image_id,caption_id\n" + rows)
    cli("ingest", "csv", tmp_path / "g.csv")
    return dict(enumerate(np.random.default_rng(2).normal(size=(10, 4)).astype(np.float32)))


def test_incomplete_models_are_skipped_and_reported(
    cli: Run, cli_json: RunJson, import_vectors: Run, vectors: dict[int, Any]
) -> None:
    first_four = {number: vectors[number] for number in range(4)}
    import_vectors("whole", "g/all", vectors, vectors)
    import_vectors("half", "g/all", vectors, first_four)
    import_vectors("quarter", "g/all", first_four, first_four)
    missing = {"half": "0 images and 6 captions", "quarter": "6 images and 6 captions"}
    for command, key in (("eval", "evaluations"), ("hubness", "hubness")):
        result = cli_json(command, "--split", "g/all")
        assert [row["model"] for row in result[key]] == ["whole"]
        assert {row["model"]: row["reason"].split(" of g/all")[0] for row in result["skipped"]} == missing
        errors = cli(command, "--split", "g/all").stderr
        assert all(f"skipped {model}: {words} of g/all have no vectors" in errors for model, words in missing.items())
        for model, words in missing.items():  # with --model it is an error
            named = ("--model", "whole", "--model", model)
            assert words in cli(command, "--split", "g/all", *named, code=1).stderr
    assert cli_json("eval", "--split", "g/all", "--model", "whole")["skipped"] == []
    partial = cli_json("eval", "--split", "g/all", "--partial")
    assert [row["model"] for row in partial["evaluations"]] == ["half", "quarter", "whole"]
    assert partial["skipped"] == []


def test_no_complete_model_is_an_error(cli: Run, import_vectors: Run, vectors: dict[int, Any]) -> None:
    assert "no model has vectors of g/all yet" in cli("eval", "--split", "g/all", code=1).stderr
    first_four = {number: vectors[number] for number in range(4)}
    import_vectors("half", "g/all", first_four, vectors)
    error = cli("eval", "--split", "g/all", code=1).stderr
    assert "6 images and 0 captions of g/all have no vectors of half yet" in error
    import_vectors("other", "g/all", first_four, first_four)
    assert "(1 other model is also incomplete)" in cli("eval", "--split", "g/all", code=1).stderr


@pytest.mark.full
def test_model_with_only_captions_is_skipped_and_reported(cli: Run, cli_json: RunJson, scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "s")
    cli("model", "add", "words", "--base", "bundled:demo")
    cli("embed", "--model", "words", "--only", "captions")
    error = cli("eval", "--split", "s/val", code=1).stderr
    assert "24 images and 0 captions of s/val have no vectors of words yet" in error
    cli("embed", "--model", "demo")
    cli("model", "remove", "words", "--yes")
    cli("model", "add", "small", "--base", "bundled:demo")
    cli("embed", "--model", "small", "--only", "captions", "--precision", other_precision())
    result = cli_json("eval", "--split", "s/val")
    assert [row["model"] for row in result["evaluations"]] == ["demo"]
    assert [row["model"] for row in result["skipped"]] == ["small"]
