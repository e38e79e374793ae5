"""Vectors of an earlier version have no probe: used with a warning until 'clipstore embed' verifies a sample."""

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
    "vectors of demo were written by an older version of clipstore and are not verified yet: "
    "run 'clipstore embed --model demo --split coco/val'"
)


@pytest.fixture(scope="module")
def evaluated(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the model demo, embedded and evaluated under two names."""
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
    """The same without probes, as an earlier version left it."""
    shutil.copytree(evaluated, store)
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        connection.execute("DELETE FROM probes")
    return store


TARGET = ("--model", "demo", "--split", "coco/val")
COMMANDS: dict[str, tuple[object, ...]] = {
    "eval": ("eval", *TARGET),
    "hubness": ("hubness", *TARGET),
    "retrieve": ("retrieve", "a red circle", *TARGET),
    "compare": ("compare", "demo", "other", "--split", "coco/val"),
    "export": ("export", "vectors", *TARGET),
}


SHORT = {"eval", "compare"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.full) for name in COMMANDS]
)
def test_commands_warn_of_unchecked_vectors(
    name: str, unchecked: Path, cli: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Python prints unhandled log messages on stderr."""

    def warnings(out: str) -> tuple[list[str], list[str]]:
        """The warnings in the command's JSON and in its log."""
        caplog.clear()
        words = (*COMMANDS[name], tmp_path / out) if name == "export" else COMMANDS[name]
        result = json.loads(cli(*words, "--json").stdout)
        return (result["hubness"][0] if name == "hubness" else result)["warnings"], caplog.messages

    lines = [LINE, LINE.replace("demo", "other")] if name == "compare" else [LINE]
    assert warnings("before") == (lines, [f"clipstore: warning: {line}" for line in lines])
    cli("embed", *TARGET)
    assert warnings("after") == ([], [])


def test_the_python_api_warns_of_unchecked_vectors(unchecked: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        clipstore.open(unchecked).vectors("demo", "coco/val", "images")
    assert LINE in caplog.text
    assert clipstore.open(unchecked).evaluate("demo", "coco/val")["warnings"] == [LINE]


def test_imported_vectors_need_no_check(cli: Run, cli_json: Run, import_vectors: Run, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("image_path,caption,image_id,caption_id\n1.jpg,one,1,1\n2.jpg,two,2,2\n")
    cli("ingest", "csv", tmp_path / "d.csv")
    import_vectors("m", "d/all", {"1": [1.0, 0], "2": [0, 1.0]}, {"1": [1.0, 0], "2": [0, 1.0]})
    assert cli_json("eval", "--model", "m", "--split", "d/all")["warnings"] == []
