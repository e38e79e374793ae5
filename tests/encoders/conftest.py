"""Fixtures of the tests of encoders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(small_clip: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be changed by the test."""
    return Path(shutil.copytree(small_clip, tmp_path / "clip"))


@pytest.fixture(scope="session")
def image_files(test_data: Path) -> list[Path]:
    files = sorted((test_data / "coco-mini").glob("*2017/*.jpg"))
    assert len(files) == 80 + 159
    return files


@pytest.fixture(scope="session")
def captions(test_data: Path) -> list[str]:
    annotations = json.loads((test_data / "coco-mini/annotations/captions_val2017.json").read_text())
    return [row["caption"] for row in annotations["annotations"]]
