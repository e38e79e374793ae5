"""Stores of the synthetic scenes that tests of embedding copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import run_command


@pytest.fixture(scope="session")
def prepared_scenes(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the synthetic scenes and the stores `ingested` and `embedded` of it."""
    place = tmp_path_factory.mktemp("prepared_scenes")
    shutil.copytree(scenes, place / "scenes")
    run_command(place / "ingested", "ingest", "coco", place / "scenes")
    shutil.copytree(place / "ingested", place / "embedded")
    run_command(place / "embedded", "embed", "--model", "demo")
    return place


@pytest.fixture
def scene_files(prepared_scenes: Path, scenes: Path) -> Path:
    """The dataset of `scene_store`, 24 images and 120 captions, restored after changes by other tests."""
    shutil.rmtree(prepared_scenes / "scenes")
    return Path(shutil.copytree(scenes, prepared_scenes / "scenes"))


@pytest.fixture
def scene_store(prepared_scenes: Path, scene_files: Path, store: Path) -> Path:
    """This test's store, with the synthetic scenes ingested."""
    assert scene_files
    return Path(shutil.copytree(prepared_scenes / "ingested", store))


@pytest.fixture
def embedded_store(prepared_scenes: Path, scene_files: Path, store: Path) -> Path:
    """This test's store, with the synthetic scenes ingested and embedded with the bundled model."""
    assert scene_files
    return Path(shutil.copytree(prepared_scenes / "embedded", store))
