"""Images that a model was trained on count as seen when a source drops, moves or rewrites them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]

IMAGES = 6


@pytest.fixture
def trained(cli: Run, tmp_path: Path) -> None:
    """The datasets a and b with the same six image files under other names; demo was trained on a."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(IMAGES):
            pixels = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{name}{number}.png")
        ingest(cli, tmp_path, name, range(IMAGES))
    cli("embed", "--model", "demo")
    cli("model", "trained", "demo", "--split", "a/all")


def ingest(cli: Run, folder: Path, name: str, numbers: Iterable[int], *more: object) -> Any:
    rows = [f"{name}{number}.png,caption {number}\n" for number in numbers]
    (folder / name / f"{name}.csv").write_text("image_path,caption\n" + "".join(rows))
    return cli("ingest", "csv", folder / name / f"{name}.csv", *more)


def seen(cli_json: Run, split: str) -> int | None:
    (evaluation,) = cli_json("eval", "--model", "demo", "--split", split)["evaluations"]
    count: int | None = evaluation["measured_on"]["seen_images"]
    return count


def training_images(cli_json: Run, split: str) -> int:
    count: int = cli_json("model", "trained", "demo", "--split", split)["training_images"]
    return count


@pytest.mark.full
@pytest.mark.usefixtures("trained")
def test_images_that_a_source_drops_still_count_as_seen(cli: Run, cli_json: Run, tmp_path: Path, sql: Run) -> None:
    assert (seen(cli_json, "a/all"), seen(cli_json, "b/all")) == (IMAGES, IMAGES)
    ingest(cli, tmp_path, "a", range(2))
    assert seen(cli_json, "b/all") == IMAGES
    assert training_images(cli_json, "a/all") == IMAGES
    ingest(cli, tmp_path, "a", range(IMAGES))
    cli("embed", "--model", "demo")
    assert (seen(cli_json, "a/all"), seen(cli_json, "b/all")) == (IMAGES, IMAGES)
    assert training_images(cli_json, "a/all") == IMAGES  # each counts once, recorded by id and by content
    assert sql("SELECT count(*) AS lost FROM training_images ANTI JOIN images USING (image_id)") == [{"lost": 0}]


@pytest.mark.usefixtures("trained")
def test_images_that_move_still_count_as_seen_elsewhere(cli: Run, cli_json: Run, tmp_path: Path) -> None:
    (tmp_path / "a").rename(tmp_path / "moved")
    cli("ingest", "csv", tmp_path / "moved" / "a.csv", "--replace")
    assert seen(cli_json, "b/all") == IMAGES
    cli("embed", "--model", "demo")
    assert (seen(cli_json, "a/all"), seen(cli_json, "b/all")) == (IMAGES, IMAGES)
    assert training_images(cli_json, "a/all") == IMAGES


@pytest.mark.full
@pytest.mark.usefixtures("trained")
def test_images_that_are_rewritten_still_count_as_seen_elsewhere(cli: Run, cli_json: Run, tmp_path: Path) -> None:
    for number in range(IMAGES):
        Image.new("RGB", (16, 16), (number, 9, 9)).save(tmp_path / "a" / f"a{number}.png")
    cli("embed", "--model", "demo")
    assert (seen(cli_json, "a/all"), seen(cli_json, "b/all")) == (IMAGES, IMAGES)


def test_removed_training_images_without_content_are_reported(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ingest(cli, tmp_path, "a", range(IMAGES))
    cli("model", "trained", "demo", "--split", "a/all")
    cli("model", "trained", "demo", "--split", "a/all")
    words = "warning: demo was trained on 4 of the removed images, whose files were never read"
    assert words in ingest(cli, tmp_path, "a", range(2)).stderr
    assert "was trained on" not in ingest(cli, tmp_path, "a", range(2)).stderr  # nothing was removed
