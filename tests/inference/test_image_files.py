"""Image files as people have them: turned by EXIF, named pipes, phone formats, PNGs with much text."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
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
from clipstore.encoders.fingerprint import describe, files_key
from clipstore.encoders.images import Preprocessing, apply_orientation, decode_image, decode_pixels, read_preprocessing
from clipstore.errors import ImageError
from clipstore.pipeline.thumbnails import thumbnail, webp_thumbnail
from clipstore.records import Model

Run = Callable[..., Result]
Rows = list[dict[str, Any]]

BUNDLED = Path(scenes.__file__).parent / "model"
RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def how() -> Preprocessing:
    return read_preprocessing(BUNDLED / "preprocessor_config.json")


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """Red, and blue in its upper left quarter."""
    values = np.full((height, width, 3), RED, dtype=np.uint8)
    values[: height // 2, : width // 2] = BLUE
    return Image.fromarray(values)


def saved(image: Image.Image, kind: str, orientation: int | None = None, **more: Any) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    out = io.BytesIO()
    image.save(out, kind, exif=exif, **more)
    return out.getvalue()


def with_text(size: int, **more: Any) -> bytes:
    told = PngImagePlugin.PngInfo()
    told.add_text("comment", "y" * size, **more)
    return saved(picture(), "PNG", pnginfo=told)


def write_csv(folder: Path, names: list[str]) -> Path:
    file = folder / "own.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption"), *((name, f"a picture {name}") for name in names)])
    return file


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Make a named pipe that nobody writes to; whoever waits for it gets an end after a minute."""
    made: list[Path] = []

    def release() -> None:
        for path in made:
            descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
            os.close(descriptor)

    def make(name: str) -> Path:
        path = tmp_path / name
        os.mkfifo(path)
        made.append(path)
        return path

    timer = Timer(60, release)
    timer.daemon = True
    timer.start()
    yield make
    timer.cancel()


# --- orientation


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(kind: str, orientation: int) -> None:
    photo = saved(picture(), kind, orientation)
    with Image.open(io.BytesIO(photo)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert apply_orientation(decode_image(photo), photo).tobytes() == expected.tobytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, which clipstore switches off
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01", b"Exif\0\0" + b"\xff" * 64]
)
def test_damaged_exif_data_turn_nothing(exif: bytes) -> None:
    out = io.BytesIO()
    picture().save(out, "JPEG", exif=exif)
    image = decode_image(out.getvalue())
    assert apply_orientation(image, out.getvalue()).tobytes() == image.tobytes()


def by_transformers(image: Image.Image) -> NDArray[Any]:
    processor = CLIPImageProcessorPil.from_pretrained(BUNDLED, do_rescale=False, do_normalize=False)
    return np.moveaxis(np.asarray(processor(image)["pixel_values"][0]), 0, -1)


def test_by_default_pixels_are_those_of_transformers_and_turned_where_the_model_asks(how: Preprocessing) -> None:
    from dataclasses import replace

    photo = saved(picture(), "JPEG", 6, quality=95)
    with Image.open(io.BytesIO(photo)) as image:
        assert np.array_equal(decode_pixels(photo, how), by_transformers(image))
        turned = by_transformers(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_pixels(photo, replace(how, exif_orientation=True)), turned)
    assert not np.array_equal(decode_pixels(photo, how), turned)


def test_the_option_is_part_of_the_image_towers_fingerprint_and_changes_none_where_it_is_off() -> None:
    plain = Model(name="m", family="clip", base="bundled:demo")
    turned = Model(name="m", family="clip", base="bundled:demo", exif_orientation=True)
    (image, text), (other, same) = describe(plain, "fp32"), describe(turned, "fp32")
    assert (image.fingerprint != other.fingerprint, image.backbone != other.backbone) == (True, True)
    assert text == same
    assert files_key(plain, "fp32") != files_key(turned, "fp32")


def test_a_model_that_turns_images_has_the_vectors_of_the_turned_files(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path, store: Path
) -> None:
    (tmp_path / "turned.jpg").write_bytes(saved(picture(), "JPEG", 6, quality=95))
    with Image.open(tmp_path / "turned.jpg") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "upright.png")
        image.save(tmp_path / "lying.png")
    cli("ingest", "csv", write_csv(tmp_path, ["turned.jpg", "upright.png", "lying.png"]))
    cli("model", "add", "upright", "--base", "bundled:demo", "--exif-orientation")
    assert cli_json("model", "show", "upright")["exif_orientation"] is True
    cli("embed", "--model", "demo", "--model", "upright", "--split", "own/all", "--precision", "fp32")
    embedding_store = clipstore.open(store)
    for model, like in (("demo", 2), ("upright", 1)):
        _, vectors = embedding_store.vectors(model, "own/all", "images")
        scores = vectors.astype(np.float64) @ vectors[0].astype(np.float64)
        assert scores[like] == pytest.approx(1, abs=1e-6)
        assert scores[3 - like] < 1 - 1e-6


def test_a_job_may_ask_for_it(cli_json: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "mine.toml").write_text('[model]\nbase = "bundled:demo"\nexif_orientation = true\n')
    monkeypatch.chdir(tmp_path)
    assert cli_json("model", "show", "mine")["exif_orientation"] is True


def test_thumbnails_of_the_report_and_of_panels_are_upright(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    file.write_bytes(saved(picture(), "JPEG", 6, quality=95))
    small = webp_thumbnail(file)
    assert small
    with Image.open(io.BytesIO(small)) as image:
        assert image.width < image.height
        red, _, blue = image.convert("RGB").getpixel((image.width - 5, 5))  # what was left above is right above
        assert blue > red
    panel = thumbnail(file, 400)
    assert panel
    assert panel.width < panel.height


# --- what is no image, and what cannot be read


@pytest.mark.parametrize("more", [{"zip": True}, {"zip": False}])
def test_the_text_of_a_png_never_stands_in_the_way_of_its_pixels(more: dict[str, bool], how: Preprocessing) -> None:
    assert np.array_equal(decode_pixels(with_text(3 * 2**20, **more), how), decode_pixels(saved(picture(), "PNG"), how))


def test_a_png_with_text_that_is_damaged_besides_says_what_is_damaged() -> None:
    photo = with_text(3 * 2**20, zip=True)
    cut = photo[: photo.index(b"IDAT") + 20]
    with pytest.raises(ImageError, match=r"^damaged: (?!.*text)"):
        decode_image(cut)


@pytest.mark.parametrize(
    ("photo", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC is not supported: convert it to JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(64), "HEIC is not supported: convert it to JPEG"),
        (b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2" + bytes(64), "a video .*'isom'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\x1f\x8b\x08" + bytes(20), "a gzip file"),
        (b"neither", "not an image that Pillow knows"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(photo: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(photo)


# --- named pipes and devices


def test_a_named_pipe_and_a_device_are_failed_images(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path, pipe: Callable[[str], Path]
) -> None:
    pipe("pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "good.jpg").write_bytes(saved(picture(), "JPEG"))
    cli("ingest", "csv", write_csv(tmp_path, ["pipe.jpg", "device.jpg", "good.jpg"]))
    told = cli_json("embed", "--model", "demo", "--split", "own/all", "--only", "images")["embedded"][0]
    assert (told["done"], told["missing"]) == (1, 2)
    reasons = {row["item"]: row["reason"] for row in cli_json("query", "item_failures")}
    assert "a named pipe, not a regular file" in reasons["pipe.jpg"]
    assert "a device, not a regular file" in reasons["device.jpg"]
    assert thumbnail(tmp_path / "pipe.jpg") is None


def test_an_image_that_becomes_a_pipe_keeps_its_vector(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path, pipe: Callable[[str], Path]
) -> None:
    """Also where a picture of the answer is drawn."""
    for name in ("one.jpg", "two.jpg"):
        (tmp_path / name).write_bytes(saved(picture(), "JPEG", quality=50 + len(name)))
    cli("ingest", "csv", write_csv(tmp_path, ["one.jpg", "two.jpg"]))
    cli("embed", "--model", "demo", "--split", "own/all")
    (tmp_path / "two.jpg").unlink()
    pipe("two.jpg")
    folder = tmp_path / "queries"
    folder.mkdir()
    (folder / "q.jpg").write_bytes((tmp_path / "one.jpg").read_bytes())
    os.mkfifo(folder / "p.jpg")
    words = ("retrieve", folder, "--model", "demo", "--split", "own/all", "--panel", tmp_path / "panel.png")
    told = cli_json(*words)
    assert [row["query"] for row in told["queries"]] == [str(folder / "q.jpg")]
    assert "a named pipe" in told["failures"][0]["reason"]
    assert (tmp_path / "panel.png").is_file()


def test_a_pipe_for_a_table_a_job_or_an_array_is_refused(
    cli: Run, import_vectors: Run, tmp_path: Path, pipe: Callable[[str], Path]
) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(picture(), "JPEG"))
    cli("ingest", "csv", write_csv(tmp_path, ["a.jpg"]))
    words = (
        "import",
        "m",
        "--split",
        "own/all",
        "--image-ids",
        "i.npy",
        "--captions",
        "c.npy",
        "--caption-ids",
        "i.npy",
    )
    for command in (
        ("ingest", "csv", pipe("pipe.csv")),
        ("run", pipe("pipe.toml")),
        (*words, "--images", pipe("pipe.npy")),
    ):
        assert "a named pipe, not a regular file" in cli(*command, code=1).stderr


# --- arrays of objects


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_ids_that_are_python_objects_are_refused_with_what_to_do(
    version: tuple[int, int], cli: Run, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(picture(), "JPEG"))
    cli("ingest", "csv", write_csv(tmp_path, ["a.jpg"]))
    np.save(tmp_path / "v.npy", np.eye(1, dtype=np.float32))
    np.save(tmp_path / "texts.npy", np.array(["a.jpg#0"]))
    with (tmp_path / "ids.npy").open("wb") as out:
        np.lib.format.write_array(out, np.array(["a.jpg"], dtype=object), version=version, allow_pickle=True)
    words = ("--images", "v.npy", "--image-ids", "ids.npy", "--captions", "v.npy", "--caption-ids", "texts.npy")
    told = cli("import", "m", "--split", "own/all", *(tmp_path / w if w.endswith("npy") else w for w in words), code=1)
    assert "ids.npy holds Python objects (dtype object): save it as an array of integers, strings" in told.stderr
