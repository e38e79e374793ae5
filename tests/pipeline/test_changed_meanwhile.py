"""What another process changes while something is computed: nothing is stored that is no longer true."""

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
    """Scenes of this test's own, ingested and embedded."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    cli("ingest", "coco", root, "--name", "scenes")
    cli("embed", "--model", "demo")
    return root


def test_a_split_that_changes_while_it_is_ranked_is_not_evaluated(
    cli: Run, embedded: Path, store: Path, sql: Callable[[str], list[dict[str, Any]]]
) -> None:
    """The progress of the ranking is when another user ingests a caption that was corrected."""
    annotations = embedded / "annotations" / "captions_val.json"

    def correct(_what: str, done: int, total: int) -> None:
        if done == total:
            content = json.loads(annotations.read_text())
            content["annotations"][0]["caption"] += " indeed"
            annotations.write_text(json.dumps(content))
            cli("ingest", "coco", embedded, "--name", "scenes")

    with pytest.raises(VectorError, match="changed while it was ranked; nothing was stored"):
        evaluate(Store(store), ["demo"], "scenes/val", EvalOptions(on_progress=correct))
    assert sql("SELECT * FROM evaluations") == []


def test_a_variable_of_the_code_is_no_table(embedded: Path, store: Path) -> None:
    with pytest.raises(clipstore.errors.CatalogError, match="Table with name parameters does not exist"):
        clipstore.open(store).sql("FROM parameters")
