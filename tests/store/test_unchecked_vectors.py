"""Vectors that an older clipstore made are used with a warning, until 'clipstore embed' has compared a few."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

import clipstore
from clipstore.cli import main

Run = Callable[..., Any]

LINE = (
    "vectors of demo were made by an older clipstore and are not checked yet: "
    "run 'clipstore embed --model demo --split coco/val'"
)


@pytest.fixture(scope="module")
def evaluated(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose model demo is embedded and evaluated, beside a copy of it that has another name."""
    root = tmp_path_factory.mktemp("unchecked") / "store"
    for words in (
        ("ingest", "coco", str(scenes)),
        ("model", "add", "other", "--base", "bundled:demo"),
        ("embed", "--model", "demo", "--model", "other"),
        ("eval", "--split", "coco/val"),
    ):
        result = CliRunner(env={"CLIPSTORE_STORE": str(root)}).invoke(main, words)
        assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def unchecked(evaluated: Path, store: Path) -> Path:
    """The same without probes, as an older clipstore left it."""
    shutil.copytree(evaluated, store)
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        connection.execute("DELETE FROM probes")
    return store


ONE = ("--model", "demo", "--split", "coco/val")
COMMANDS: dict[str, tuple[object, ...]] = {
    "eval": ("eval", *ONE),
    "hubness": ("hubness", *ONE),
    "retrieve": ("retrieve", "a red circle", *ONE),
    "compare": ("compare", "demo", "other", "--split", "coco/val"),
    "export": ("export", "vectors", *ONE),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_unchecked_vectors_are_said(
    name: str, unchecked: Path, cli: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Log lines are what Python prints on stderr where nobody handles them."""

    def said(out: str) -> tuple[list[str], list[str]]:
        caplog.clear()
        words = (*COMMANDS[name], tmp_path / out) if name == "export" else COMMANDS[name]
        told = json.loads(cli(*words, "--json").stdout)
        return (told["hubness"][0] if name == "hubness" else told)["warnings"], caplog.messages

    lines = [LINE, LINE.replace("demo", "other")] if name == "compare" else [LINE]
    assert said("before") == (lines, [f"clipstore: warning: {line}" for line in lines])
    cli("embed", *ONE)
    assert said("after") == ([], [])


def test_unchecked_vectors_are_said_in_python(unchecked: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clipstore.open(unchecked).vectors("demo", "coco/val", "images")
    assert LINE in caplog.text
    assert clipstore.open(unchecked).evaluate("demo", "coco/val")["warnings"] == [LINE]


def test_imported_vectors_are_nothing_to_check(cli: Run, cli_json: Run, import_vectors: Run, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("image_path,caption,image_id,caption_id\n1.jpg,one,1,1\n2.jpg,two,2,2\n")
    cli("ingest", "csv", tmp_path / "d.csv")
    import_vectors("m", "d/all", {"1": [1.0, 0], "2": [0, 1.0]}, {"1": [1.0, 0], "2": [0, 1.0]})
    assert cli_json("eval", "--model", "m", "--split", "d/all")["warnings"] == []
