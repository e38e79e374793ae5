"""Another process changes the catalog during an evaluation: no outdated result is stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import clipstore
from clipstore.errors import VectorError
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.store.layout import Store

Run = Callable[..., Result]


@pytest.fixture
def embedded(cli: Run, scenes: Path, tmp_path: Path) -> Path:
    """This test's own copy of the scenes, ingested and embedded."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    cli("ingest", "coco", root, "--name", "scenes")
    cli("embed", "--model", "demo")
    return root


def test_an_evaluation_of_a_split_that_changes_meanwhile_is_not_stored(
    cli: Run, embedded: Path, store: Path, sql: Callable[[str], list[dict[str, Any]]]
) -> None:
    """The progress callback of the ranking ingests a corrected caption, as another user may."""
    annotations = embedded / "annotations" / "captions_val.json"

    def correct(_task: str, done: int, total: int) -> None:
        if done == total:
            content = json.loads(annotations.read_text())
            content["annotations"][0]["caption"] += " indeed"
            annotations.write_text(json.dumps(content))
            cli("ingest", "coco", embedded, "--name", "scenes")

    with pytest.raises(VectorError, match="changed during the evaluation; nothing was stored"):
        evaluate(Store(store), ["demo"], "scenes/val", EvalOptions(on_progress=correct))
    assert sql("SELECT * FROM evaluations") == []


def test_python_variables_are_not_tables(embedded: Path, store: Path) -> None:
    with pytest.raises(clipstore.errors.CatalogError, match="Table with name parameters does not exist"):
        clipstore.open(store).sql("FROM parameters")
