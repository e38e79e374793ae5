"""Symbolic links in a source: those that lead out of its folder are refused without --follow-links."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.fixture
def root(scenes: Path, tmp_path: Path) -> Path:
    """A COCO folder, in a folder that is reached by a link."""
    (tmp_path / "data").mkdir()
    shutil.copytree(scenes, tmp_path / "data" / "coco")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    return tmp_path / "link" / "coco"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "elsewhere" / "secret.jpg"
    file.parent.mkdir()
    file.write_bytes(b"secret")
    return file


def image_files(root: Path) -> list[Path]:
    return sorted((root / "val").iterdir())


def test_a_link_to_a_file_outside_is_refused(cli: Run, cli_json: Callable[..., Any], root: Path, secret: Path) -> None:
    file = image_files(root)[3]
    file.unlink()
    file.symlink_to(secret)
    error = cli("ingest", "coco", root, code=1).stderr
    assert f"lead 1 of its image files out of {root}, such as {file} to {secret}: --follow-links" in error
    assert cli_json("ingest", "coco", root, "--follow-links")["changes"]["images_added"] == 24


def test_a_link_to_a_folder_outside_is_refused(cli: Run, root: Path, tmp_path: Path) -> None:
    shutil.move(root / "val", tmp_path / "moved")
    (root / "val").symlink_to(tmp_path / "moved")
    assert "lead 24 of its image files out of" in cli("ingest", "coco", root, code=1).stderr
    cli("ingest", "coco", root, "--images", tmp_path / "moved")


def test_links_within_the_folder_and_to_it_are_accepted(cli: Run, root: Path) -> None:
    first, second = image_files(root)[:2]
    second.unlink()
    second.symlink_to(first)
    shutil.move(root / "val", root / "photos")
    (root / "val").symlink_to("photos")
    cli("ingest", "coco", root)


def test_links_below_a_folder_of_images_and_of_a_csv_file(cli: Run, tmp_path: Path, secret: Path) -> None:
    """An absolute path in a CSV file names a file as it is; a relative one is checked."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a.jpg").symlink_to(secret)
    (folder / "other.jpg").symlink_to(secret)
    for name, path, code in (("a", "images/a.jpg", 1), ("b", secret, 0), ("c", "other.jpg", 1)):
        with (folder / f"{name}.csv").open("w", newline="") as out:
            csv.writer(out).writerows([("image_path", "caption"), (path, "a caption")])
        result = cli("ingest", "csv", folder / f"{name}.csv", code=code)
        assert ("--follow-links" in result.stderr) == bool(code)
