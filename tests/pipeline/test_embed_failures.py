"""Image files and captions that cannot be embedded: recorded with a reason, retried, and left out of evaluations."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_runs import all_embedded, embed_towers, item_counts
from helpers import query_rows, run_command, stored_vectors
from PIL import Image

Run = Callable[..., Any]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file whose header states this size, with one byte of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def valid_images() -> dict[str, bytes]:
    random = np.random.default_rng(1)
    colours = Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    grey = random.integers(0, 256, (90, 120), dtype=np.uint8)
    deep = Image.fromarray((grey.astype(np.uint16) << 8) + random.integers(0, 256, (90, 120), dtype=np.uint16))
    return {
        "good.jpg": encoded(colours, "JPEG"),
        "grey.jpg": encoded(Image.fromarray(grey), "JPEG"),
        "cmyk.jpg": encoded(colours.convert("CMYK"), "JPEG"),
        "palette.png": encoded(colours.quantize(64), "PNG", transparency=bytes(range(64))),
        "deep.png": encoded(deep, "PNG"),
        "eight.png": encoded(Image.fromarray(grey), "PNG"),
        "thin.png": encoded(colours.crop((0, 0, 1, 90)), "PNG"),
    }


def invalid_images() -> dict[str, bytes]:
    whole = valid_images()
    return {
        "truncated.jpg": whole["good.jpg"][:2000],
        "header.jpg": whole["good.jpg"][:20],
        "cut.png": whole["eight.png"][:3000],
        "empty.jpg": b"",
        "text.jpg": b"this is no image",
        "bomb.png": png_of_size(30_000, 30_000),
        "large.png": png_of_size(10_000, 10_000),
        "long.png": encoded(Image.new("RGB", (1, 60_000)), "PNG"),
        "wrong_size.png": png_of_size(100, 100),
    }


REASONS = {
    "truncated.jpg": "damaged: .*truncated",
    "header.jpg": "not an image",
    "cut.png": "damaged: ",
    "empty.jpg": "the file is empty",
    "text.jpg": "not an image",
    "bomb.png": "over the pixel limit",
    "large.png": "over the pixel limit",
    "long.png": "too elongated",
    "wrong_size.png": "damaged: ",
    "missing.jpg": "the image file is missing",
    "folder.jpg": "cannot be read: Is a directory",
    "inside.jpg/a.jpg": "the image file is missing|cannot be read: Not a directory",
}


@pytest.fixture(scope="module")
def prepared_odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of unusual, invalid and missing image files, and the stores `ingested` and `embedded` of it."""
    place = tmp_path_factory.mktemp("prepared_odd")
    write_dataset(place / "odd")
    run_command(place / "ingested", "ingest", "csv", place / "odd" / "odd.csv")
    shutil.copytree(place / "ingested", place / "embedded")
    run_command(place / "embedded", "embed", "--model", "demo", code=3)
    return place


def write_dataset(folder: Path) -> None:
    folder.mkdir()
    for name, content in {**valid_images(), **invalid_images()}.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(1, 1))  # unchanged when it is written again
    (folder / "folder.jpg").mkdir()
    (folder / "inside.jpg").write_bytes(b"a file where a folder should be")
    write_csv(folder / "odd.csv", [(name, f"a picture of {name}") for name in [*valid_images(), *REASONS]])


@pytest.fixture
def odd_store(prepared_odd: Path, store: Path) -> Path:
    """This test's store with those images, which are restored after changes by other tests."""
    shutil.rmtree(prepared_odd / "odd")
    write_dataset(prepared_odd / "odd")
    return Path(shutil.copytree(prepared_odd / "ingested", store))


@pytest.fixture
def embedded_odd(prepared_odd: Path, odd_store: Path) -> Path:
    """The same, embedded with the bundled model."""
    shutil.rmtree(odd_store)
    return Path(shutil.copytree(prepared_odd / "embedded", odd_store))


def write_csv(file: Path, rows: list[tuple[str, str]]) -> None:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([("image_path", "caption"), *rows])


def failures(cli_json: Run) -> dict[str, str]:
    rows = cli_json("query", "item_failures", "-p", "limit=100")
    assert len({(row["tower"], row["item"]) for row in rows}) == len(rows)
    return {row["item"]: row["reason"] for row in rows}


def test_invalid_image_files_do_not_stop_the_run_and_are_recorded_with_a_reason(odd_store: Path, cli_json: Run) -> None:
    summary = embed_towers(cli_json)
    missing = 3  # missing.jpg, folder.jpg, inside.jpg/a.jpg
    assert item_counts(summary["image"]) == {"planned": 16, "done": 7, "reused": 0, "failed": 9, "missing": missing}
    reasons = failures(cli_json)
    assert sorted(reasons) == sorted(REASONS)
    for name, reason in REASONS.items():
        assert re.search(reason, reasons[name]), (name, reasons[name])
    again = item_counts(embed_towers(cli_json)["image"])
    assert again == {"planned": 0, "done": 0, "reused": 7, "failed": 9, "missing": missing}


def test_16_bit_images_are_scaled_to_8_bits(embedded_odd: Path, cli_json: Run) -> None:
    names = [row["file_name"] for row in query_rows(embedded_odd, "SELECT file_name FROM images ORDER BY image_id")]
    valid = [name for name in names if name in valid_images()]
    values = dict(zip(valid, stored_vectors(embedded_odd, "images", split="odd/all"), strict=True))
    np.testing.assert_allclose(values["deep.png"], values["eight.png"], atol=1e-6)
    assert np.abs(values["deep.png"] - values["grey.jpg"]).max() > 1e-4


def test_failures_are_left_out_of_an_evaluation_and_counted_in_its_provenance(
    embedded_odd: Path, cli_json: Run
) -> None:
    provenance = cli_json("eval", "--model", "demo", "--split", "odd/all")["evaluations"][0]["measured_on"]
    assert (provenance["images"], provenance["captions"]) == (7, 7)
    assert (provenance["left_out_images"], provenance["left_out_captions"]) == (12, 12)
    assert (provenance["pending_images"], provenance["pending_captions"], provenance["partial"]) == (0, 0, False)


def test_too_many_failures_are_an_error_after_embedding(odd_store: Path, cli: Run, cli_json: Run) -> None:
    error = cli("embed", "--model", "demo", "--max-failed", "0", code=1).stderr
    assert "12 of 19 items of the image tower of demo failed or are missing" in error
    assert stored_vectors(odd_store, "images", split="odd/all").shape[0] == 7
    cli("embed", "--model", "demo", "--max-failed", "0.5", code=1)
    cli("embed", "--model", "demo", "--max-failed", "0.9")


def test_the_exit_code_says_whether_items_failed(odd_store: Path, cli: Run, cli_json: Run) -> None:
    """Also in a run that has nothing to do, because the items have no vectors still."""
    result = cli("embed", "--model", "demo", "--json", code=3)
    assert len(json.loads(result.stdout)["embedded"]) == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("clipstore: done, but 12 items failed or are missing: 'clipstore query item_failures' lists")
    assert line.endswith("--allow-failures 12 accepts this")
    cli("embed", "--model", "demo", "--allow-failures", "11", code=3)
    cli("embed", "--model", "demo", "--allow-failures", "12")
    cli("embed", "--model", "demo", "--only", "captions")
    cli("embed", "--model", "demo", "--dry-run")


def test_retry_failed_tries_failures_again(embedded_odd: Path, cli_json: Run) -> None:
    before = failures(cli_json)
    for _ in range(2):
        again = embed_towers(cli_json, "--retry-failed")["image"]
        assert item_counts(again) == {"planned": 9, "done": 0, "reused": 7, "failed": 9, "missing": 3}
        assert failures(cli_json) == before


def test_a_repaired_image_file_is_embedded(embedded_odd: Path, cli_json: Run, prepared_odd: Path) -> None:
    repaired = encoded(Image.new("RGB", (50, 50), "red"), "JPEG")
    for name in ("truncated.jpg", "missing.jpg"):
        (prepared_odd / "odd" / name).write_bytes(repaired)
    summary = embed_towers(cli_json)["image"]
    assert item_counts(summary) == {"planned": 1, "done": 1, "reused": 7, "failed": 8, "missing": 2}
    assert {"truncated.jpg", "missing.jpg"}.isdisjoint(failures(cli_json))


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_an_image_file_without_read_permission_is_recorded(scene_files: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", scene_files)
    sorted((scene_files / "val").iterdir())[0].chmod(0)
    assert item_counts(embed_towers(cli_json)["image"])["missing"] == 1
    assert "Permission denied" in next(iter(failures(cli_json).values()))


def test_a_data_set_without_a_valid_image(tmp_path: Path, cli: Run, cli_json: Run) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    write_csv(tmp_path / "none.csv", [("text.jpg", "a dog"), ("gone.jpg", "a cat")])
    cli("ingest", "csv", tmp_path / "none.csv")
    result = cli("embed", "--model", "demo", "--allow-failures", "9", "--json", code=1)
    assert "all 2 items of the image tower of demo failed or are missing" in result.stderr
    summary = {row["tower"]: row for row in json.loads(result.stdout)["embedded"]}
    assert item_counts(summary["image"]) == {"planned": 1, "done": 0, "reused": 0, "failed": 1, "missing": 1}
    assert item_counts(summary["text"]) == all_embedded(2)
    assert "none/all" in cli("eval", "--model", "demo", "--split", "none/all", code=1).stderr


@pytest.mark.parametrize(
    "empty", [pytest.param("", marks=pytest.mark.full), " ", pytest.param("\t \n", marks=pytest.mark.full)]
)
def test_an_empty_caption_is_a_failure_with_a_reason(empty: str, scene_files: Path, cli: Run, cli_json: Run) -> None:
    file = scene_files / "annotations/captions_val.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["caption"] = empty
    file.write_text(json.dumps(content))
    cli("ingest", "coco", scene_files)
    summary = embed_towers(cli_json)["text"]
    assert (summary["failed"], summary["done"]) == (1, summary["planned"] - 1)
    assert list(failures(cli_json).values()) == ["the caption is empty"]
    provenance = cli_json("eval", "--model", "demo", "--split", "coco/val")["evaluations"][0]["measured_on"]
    assert (provenance["captions"], provenance["left_out_captions"]) == (119, 1)


def test_captions_beyond_the_maximum_length_are_truncated_and_counted(tmp_path: Path, cli: Run, cli_json: Run) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    write_csv(tmp_path / "long.csv", [("a.png", "a red square " * n) for n in (1, 60, 90)])
    cli("ingest", "csv", tmp_path / "long.csv")
    summary = embed_towers(cli_json)["text"]
    assert (summary["done"], summary["cut"], summary["failed"]) == (3, 2, 0)
