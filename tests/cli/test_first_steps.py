"""Errors of first steps: each message names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipstore.datasets import coco
from clipstore.errors import DatasetError


def test_an_unknown_split_names_both_commands_that_create_splits(cli: Callable[..., Any], scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "scenes")
    message = cli("run", "20k", code=1).stderr
    assert "unknown split '20k/val'" in message
    assert "'clipstore ingest' and 'clipstore split' create splits" in message


def test_a_folder_of_images_is_not_a_root_of_coco(cli: Callable[..., Any], scenes: Path) -> None:
    images = next(folder for folder in scenes.iterdir() if folder.is_dir() and folder.name != "annotations")
    message = cli("ingest", "coco", images, code=1).stderr
    assert str(images) in message
    assert "annotations/" in message


def test_an_unreachable_base_names_model_add(cli: Callable[..., Any], scenes: Path) -> None:
    cli("ingest", "coco", scenes, "--name", "scenes")
    message = cli("embed", "--model", "pretrained", "--dry-run", code=1).stderr
    assert "record that folder with 'clipstore model add NAME --base FOLDER'" in message


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file or directory; check the path"):
        coco.splits(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "words",
    [
        ("info", "--store", ""),
        ("ingest", "coco", ""),
        ("ingest", "csv", "a.csv", "--images", ""),
        ("export", "csv", ""),
        ("demo", ""),
    ],
)
def test_an_empty_path_is_not_the_working_folder(
    cli: Callable[..., Any], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "the path is empty" in cli(*words, code=2).stderr
    assert not list(tmp_path.iterdir())
