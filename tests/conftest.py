"""What several test modules need: real data where it is, drawn scenes, and the command itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from clip_folder import build_clip

from clipstore.cli import main
from clipstore.demo.scenes import draw_dataset

ROOT = Path(__file__).parent.parent

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data: $CLIPSTORE_TEST_DATA, by default beside the checkout."""
    folder = Path(os.environ.get("CLIPSTORE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set CLIPSTORE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn COCO folder: split val, 24 images, 120 captions, instances. Copy it before changing it."""
    root = tmp_path_factory.mktemp("scenes")
    draw_dataset(root, images=24, seed=5, split="val")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where this test's store goes."""
    return tmp_path / "store"


@pytest.fixture
def cli(store: Path) -> Run:
    """Run a clipstore command on this test's store; its exit code must be `code`, and a failure one line."""

    def run(*words: object, code: int = 0) -> Result:
        runner = CliRunner(env={"CLIPSTORE_STORE": str(store), "HF_HUB_OFFLINE": "1"})
        result = runner.invoke(main, [str(word) for word in words])
        told = f"{words}: {result.exit_code}\n{result.output}"
        if result.exception and not isinstance(result.exception, SystemExit):
            raise AssertionError(told) from result.exception
        assert result.exit_code == code, told
        if code == 1:
            assert len(result.stderr.strip().splitlines()) == 1, told
        return result

    return run


@pytest.fixture
def cli_json(cli: Run) -> Callable[..., Any]:
    """Run a clipstore command with --json; what it printed."""
    return lambda *words: json.loads(cli(*words, "--json").stdout)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub-like CLIP folder with OpenAI's tokenizer and few weights. Copy it before changing it."""
    return build_clip(tmp_path_factory.mktemp("clip") / "small", small=True)


@pytest.fixture(scope="session")
def full_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub-like ViT-B/32 in full size, its weights random."""
    return build_clip(tmp_path_factory.mktemp("clip") / "full", small=False)
