"""Unusual image files: EXIF orientation, unsupported formats, PNGs with large text chunks, named pipes and devices."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, PngImagePlugin
from transformers import CLIPImageProcessorPil

import clipstore
from clipstore.demo import scenes
from clipstore.encoders.decoding import apply_orientation, decode_image
from clipstore.encoders.fingerprint import files_key, fingerprint_towers
from clipstore.encoders.images import Preprocessing, decode_pixels, read_preprocessing
from clipstore.errors import ImageError
from clipstore.pipeline.thumbnails import thumbnail, webp_thumbnail
from clipstore.records import Model

Run = Callable[..., Result]
Rows = list[dict[str, Any]]

BUNDLED = Path(scenes.__file__).parent / "model"
RED, BLUE = (255, 0, 0), (0, 0, 255)

ONLY_IMAGES = ("--only", "images", "--allow-failures", "9")


@pytest.fixture
def preprocessing() -> Preprocessing:
    return read_preprocessing(BUNDLED / "preprocessor_config.json")


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """Red, and blue in its upper left quarter."""
    values = np.full((height, width, 3), RED, dtype=np.uint8)
    values[: height // 2, : width // 2] = BLUE
    return Image.fromarray(values)


def encoded(image: Image.Image, form: str, orientation: int | None = None, **options: Any) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    out = io.BytesIO()
    image.save(out, form, exif=exif, **options)
    return out.getvalue()


def png_with_text(size: int, **options: Any) -> bytes:
    """A PNG with a text chunk of this size."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("comment", "y" * size, **options)
    return encoded(picture(), "PNG", pnginfo=chunks)


def write_csv(folder: Path, names: list[str]) -> Path:
    file = folder / "odd.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption"), *((name, f"a picture {name}") for name in names)])
    return file


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that makes a named pipe without a writer; a reader that waits gets an end of file after a minute."""
    paths: list[Path] = []

    def release() -> None:
        for path in paths:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            os.close(descriptor)

    def make(name: str) -> Path:
        path = tmp_path / name
        os.mkfifo(path)
        paths.append(path)
        return path

    timer = Timer(60, release)
    timer.daemon = True
    timer.start()
    yield make
    timer.cancel()


# --- orientation


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_applied_as_pillow_applies_it(form: str, orientation: int) -> None:
    content = encoded(picture(), form, orientation)
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert apply_orientation(decode_image(content), content).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, which commands ignore
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01", b"Exif\0\0" + b"\xff" * 64]
)
def test_damaged_exif_data_are_ignored(exif: bytes) -> None:
    out = io.BytesIO()
    picture().save(out, "JPEG", exif=exif)
    image = decode_image(out.getvalue())
    assert apply_orientation(image, out.getvalue()).tobytes() == image.tobytes()


def transformers_pixels(image: Image.Image) -> NDArray[Any]:
    processor = CLIPImageProcessorPil.from_pretrained(BUNDLED, do_rescale=False, do_normalize=False)
    return np.moveaxis(np.asarray(processor(image)["pixel_values"][0]), 0, -1)


def test_pixels_are_those_of_transformers_and_oriented_only_with_the_option(preprocessing: Preprocessing) -> None:
    content = encoded(picture(), "JPEG", 6, quality=95)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode_pixels(content, preprocessing), transformers_pixels(image))
        oriented = transformers_pixels(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_pixels(content, replace(preprocessing, exif_orientation=True)), oriented)
    assert not np.array_equal(decode_pixels(content, preprocessing), oriented)


def test_the_option_changes_the_fingerprint_of_the_image_tower_alone() -> None:
    plain = Model(name="m", family="clip", base="bundled:demo")
    oriented = Model(name="m", family="clip", base="bundled:demo", exif_orientation=True)
    (image, text), (other, same) = fingerprint_towers(plain, "fp32"), fingerprint_towers(oriented, "fp32")
    assert (image.fingerprint != other.fingerprint, image.backbone != other.backbone) == (True, True)
    assert text == same
    assert files_key(plain, "fp32") != files_key(oriented, "fp32")


def test_a_model_with_the_option_has_the_vectors_of_upright_files(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path, store: Path
) -> None:
    (tmp_path / "rotated.jpg").write_bytes(encoded(picture(), "JPEG", 6, quality=95))
    with Image.open(tmp_path / "rotated.jpg") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "upright.png")
        image.save(tmp_path / "as_stored.png")
    cli("ingest", "csv", write_csv(tmp_path, ["rotated.jpg", "upright.png", "as_stored.png"]))
    cli("model", "add", "upright", "--base", "bundled:demo", "--exif-orientation")
    assert cli_json("model", "show", "upright")["exif_orientation"] is True
    cli("embed", "--model", "demo", "--model", "upright", "--split", "odd/all", "--precision", "fp32")
    embedding_store = clipstore.open(store)
    for model, equal in (("demo", 2), ("upright", 1)):
        _, vectors = embedding_store.vectors(model, "odd/all", "images")
        scores = vectors.astype(np.float64) @ vectors[0].astype(np.float64)
        assert scores[equal] == pytest.approx(1, abs=1e-6)
        assert scores[3 - equal] < 1 - 1e-6


def test_a_job_can_set_the_option(
    cli_json: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "oriented.toml").write_text('[model]\nbase = "bundled:demo"\nexif_orientation = true\n')
    monkeypatch.chdir(tmp_path)
    assert cli_json("model", "show", "oriented")["exif_orientation"] is True


def test_thumbnails_of_the_report_and_of_panels_are_upright(tmp_path: Path) -> None:
    file = tmp_path / "rotated.jpg"
    file.write_bytes(encoded(picture(), "JPEG", 6, quality=95))
    small = webp_thumbnail(file)
    assert small
    with Image.open(io.BytesIO(small)) as image:
        assert image.width < image.height
        red, _, blue = image.convert("RGB").getpixel((image.width - 5, 5))  # the upper left quarter of the file
        assert blue > red
    panel = thumbnail(file, 400)
    assert panel
    assert panel.width < panel.height


# --- files that are not images, or are damaged


@pytest.mark.parametrize("options", [{"zip": True}, {"zip": False}])
def test_a_large_text_chunk_of_a_png_is_ignored(options: dict[str, bool], preprocessing: Preprocessing) -> None:
    assert np.array_equal(
        decode_pixels(png_with_text(3 * 2**20, **options), preprocessing),
        decode_pixels(encoded(picture(), "PNG"), preprocessing),
    )


def test_the_reason_of_a_damaged_png_does_not_name_its_text_chunk() -> None:
    content = png_with_text(3 * 2**20, zip=True)
    with pytest.raises(ImageError, match=r"^damaged: (?!.*text)"):
        decode_image(content[: content.index(b"IDAT") + 20])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC is not supported: convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(64), "HEIC is not supported: convert it to JPEG"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2" + bytes(64), "a video .*'isom'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x1f\x8b\x08" + bytes(20), "a gzip file"),
        (b"neither", "not an image of a supported format"),
    ],
)
def test_files_of_other_formats_are_named(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(content)


# --- named pipes and devices


def test_named_pipes_and_devices_are_missing_images(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path, pipe: Callable[[str], Path]
) -> None:
    pipe("pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "good.jpg").write_bytes(encoded(picture(), "JPEG"))
    cli("ingest", "csv", write_csv(tmp_path, ["pipe.jpg", "device.jpg", "good.jpg"]), "--follow-links")
    (summary,) = cli_json(
        "embed", "--model", "demo", "--split", "odd/all", "--only", "images", "--allow-failures", "9"
    )["embedded"]
    assert (summary["done"], summary["missing"]) == (1, 2)
    reasons = {row["item"]: row["reason"] for row in cli_json("query", "item_failures")}
    assert "a named pipe, not a regular file" in reasons["pipe.jpg"]
    assert "a device, not a regular file" in reasons["device.jpg"]
    assert webp_thumbnail(tmp_path / "pipe.jpg") is None


def test_the_vector_of_a_file_that_was_replaced_by_a_pipe_stays(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path, pipe: Callable[[str], Path]
) -> None:
    """Also where a panel with its thumbnail is drawn."""
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(encoded(picture(), "JPEG", quality=50 + len(name)))
    cli("ingest", "csv", write_csv(tmp_path, ["one.jpg", "two.jpg"]))
    cli("embed", "--model", "demo", "--split", "odd/all")
    (tmp_path / "two.jpg").unlink()
    pipe("two.jpg")
    folder = tmp_path / "queries"
    folder.mkdir()
    (folder / "q.jpg").write_bytes((tmp_path / "one.jpg").read_bytes())
    os.mkfifo(folder / "p.jpg")
    words = ("retrieve", folder, "--model", "demo", "--split", "odd/all", "--panel", tmp_path / "panel.png")
    result = cli_json(*words)
    assert [row["query"] for row in result["queries"]] == [str(folder / "q.jpg")]
    assert "a named pipe" in result["failures"][0]["reason"]
    assert (tmp_path / "panel.png").is_file()


def test_pipes_as_tables_jobs_and_arrays_are_refused(
    cli: Run, import_vectors: Run, tmp_path: Path, pipe: Callable[[str], Path]
) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(), "JPEG"))
    cli("ingest", "csv", write_csv(tmp_path, ["a.jpg"]))
    arrays = ("--image-ids", "i.npy", "--captions", "c.npy", "--caption-ids", "i.npy")
    for command in (
        ("ingest", "csv", pipe("pipe.csv")),
        ("run", pipe("pipe.toml")),
        ("import", "m", "--split", "odd/all", *arrays, "--images", pipe("pipe.npy")),
    ):
        assert "a named pipe, not a regular file" in cli(*command, code=1).stderr


# --- arrays of objects


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_ids_that_are_python_objects_are_refused_with_the_remedy(
    version: tuple[int, int], cli: Run, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(picture(), "JPEG"))
    cli("ingest", "csv", write_csv(tmp_path, ["a.jpg"]))
    np.save(tmp_path / "v.npy", np.eye(1, dtype=np.float32))
    np.save(tmp_path / "texts.npy", np.array(["a.jpg#0"]))
    with (tmp_path / "ids.npy").open("wb") as out:
        np.lib.format.write_array(out, np.array(["a.jpg"], dtype=object), version=version, allow_pickle=True)
    words = ("--images", "v.npy", "--image-ids", "ids.npy", "--captions", "v.npy", "--caption-ids", "texts.npy")
    files = [tmp_path / word if word.endswith("npy") else word for word in words]
    error = cli("import", "m", "--split", "odd/all", *files, code=1).stderr
    assert "ids.npy holds Python objects (dtype object)" in error
    assert "save it as an array of integers" in error
