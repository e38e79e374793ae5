"""Image files that are made to harm: other formats under the name of an image, damage, and files that cost too much."""

from __future__ import annotations

import csv
import io
import os
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from clipstore.encoders.decoding import SharedMemory, apply_orientation, decode_image
from clipstore.encoders.image_formats import FORMATS, name_format
from clipstore.errors import ImageError

Run = Callable[..., Result]

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"

ONLY_IMAGES = ("--only", "images", "--allow-failures", "9")


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def rle_bitmap(width: int, height: int, run: int) -> bytes:
    """A BMP whose rows are runs of `run` pixels; Pillow decodes it in Python."""
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    data = (bytes((run, 7)) * (width // run) + b"\0\0") * height + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + palette + data


# --- formats


@pytest.mark.parametrize("form", ["PPM", "DDS", "TGA", "PCX", "ICO", "SGI", "JPEG2000", "QOI"])
def test_other_formats_of_pillow_are_not_decoded(form: str) -> None:
    with pytest.raises(ImageError, match=r"not supported|not an image of a supported format"):
        decode_image(encoded(noise(32, 32), form))


@pytest.mark.parametrize("form", FORMATS)
def test_the_supported_formats_are_decoded(form: str) -> None:
    assert decode_image(encoded(noise(32, 24), form)).size == (32, 24)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_images_in_a_file_the_first_is_decoded(form: str) -> None:
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    content = encoded(red, form, save_all=True, append_images=[blue])
    image = np.asarray(decode_image(content), dtype=int)
    assert np.abs(image - (255, 0, 0)).max() < 8


@pytest.mark.parametrize(("form", "name"), [(b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"), (b"RIFF\0\0\0\0WEBPVP8 ", "WebP")])
def test_a_format_that_the_installed_pillow_lacks_is_named(
    form: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "check", lambda _feature: False)
    assert name_format(form + bytes(64)).startswith(f"the installed Pillow has no {name}: install")


def test_hostile_files_are_item_failures_and_the_run_goes_on(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "eps.jpg").write_bytes(EPS)
    (tmp_path / "plain.jpg").write_bytes(b"P3 2 2 255 " + b"0 0 0 " * 4)
    (tmp_path / "huge.jpg").touch()
    os.truncate(tmp_path / "huge.jpg", 2**31)  # a sparse file
    (tmp_path / "good.jpg").write_bytes(encoded(noise(40, 40), "JPEG"))
    names = ["eps.jpg", "plain.jpg", "huge.jpg", "good.jpg"]
    with (tmp_path / "a.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("image_path", "caption"), *((name, f"a picture {name}") for name in names)])
    cli("ingest", "csv", tmp_path / "a.csv")
    (summary,) = cli_json("embed", "--model", "demo", "--split", "a/all", "--only", "images", "--allow-failures", "9")[
        "embedded"
    ]
    assert summary["done"] == 1
    reasons = {row["item"]: row["reason"] for row in cli_json("query", "item_failures")}
    assert reasons["eps.jpg"] == "PostScript is not supported: convert it to PNG"
    assert "not an image of a supported format" in reasons["plain.jpg"]
    assert "larger than 1024 MB" in reasons["huge.jpg"]
    assert "good.jpg" not in reasons


# --- damage


def _samples() -> dict[str, bytes]:
    image, exif = noise(24, 16), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "text"
    samples = {form: encoded(image, form, exif=exif) for form in FORMATS if form not in ("BMP", "GIF")}
    samples |= {form: encoded(image, form) for form in ("BMP", "GIF")}
    samples |= {mode: encoded(noise(24, 16, mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")}
    samples |= {f"TIFF {name}": encoded(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits")}
    samples["progressive"] = encoded(image, "JPEG", progressive=True)
    samples["MPO"] = encoded(image, "MPO", save_all=True, append_images=[image])
    samples["RLE"] = rle_bitmap(24, 16, 3)
    return samples


SAMPLES = _samples()


@pytest.mark.parametrize("name", SAMPLES)
@given(data=st.data())
@examples(200)
def test_a_changed_file_is_decoded_or_refused_with_a_reason(name: str, data: st.DataObject) -> None:
    content = bytearray(SAMPLES[name])
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[position] = value
    changed = bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as clipstore's commands do
        try:
            image = decode_image(changed)
        except ImageError:
            return
        assert apply_orientation(image, changed).mode == "RGB"


# --- cost


def test_decoding_ends_after_its_time() -> None:
    content = rle_bitmap(1500, 1500, 1)
    with pytest.raises(ImageError, match=r"decoding takes longer than 0.05 s"):
        decode_image(content, seconds=0.05)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "I;16"])
def test_an_image_that_is_converted_in_strips_is_that_converted_at_once(mode: str) -> None:
    width, height = 1300, 1201  # more than a strip, and a last strip of another height
    values = np.random.default_rng(1).integers(0, 256, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    options: dict[str, Any] = {}
    if mode == "I;16":
        grey = values[..., 0].astype(np.uint16) << 8
        expected = Image.fromarray(values[..., 0]).convert("RGB")
        content = encoded(Image.fromarray(grey), "PNG", compress_level=1)
    else:
        options = {"P": {"transparency": 3}, "RGB": {"transparency": (255, 255, 255)}}.get(mode, {})
        content = encoded(image.convert(mode), "PNG", compress_level=1, **options)
        with Image.open(io.BytesIO(content)) as decoded:
            white = Image.new("RGBA", decoded.size, "white")
            expected = Image.alpha_composite(white, decoded.convert("RGBA")).convert("RGB")
    assert decode_image(content).tobytes() == expected.tobytes()


def test_threads_share_the_memory_for_decoding() -> None:
    memory, lock, held, peak = SharedMemory(10), threading.Lock(), [0], [0]

    def work(size: int) -> None:
        for _ in range(200):
            with memory.reserve(size):
                with lock:
                    held[0] += min(size, 10)
                    peak[0] = max(peak[0], held[0])
                with lock:
                    held[0] -= min(size, 10)

    threads = [threading.Thread(target=work, args=(size,)) for size in (1, 3, 4, 6, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == [0]
    assert peak[0] == 10  # the size above the total had all of it


@pytest.mark.full
def test_the_memory_of_the_largest_image_with_transparency() -> None:
    """4 bytes per pixel for the image, 4 for its conversion."""
    program = """
import io, sys
from PIL import Image
from clipstore.encoders.decoding import decode_image
from clipstore.process import peak_memory
content = sys.stdin.buffer.read()
before = peak_memory()
decode_image(content)
print(peak_memory() - before)
"""
    content = encoded(Image.new("RGBA", (9400, 9400), (1, 2, 3, 128)), "PNG", compress_level=1)
    done = subprocess.run([sys.executable, "-c", program], input=content, capture_output=True, check=True)
    assert int(done.stdout) < 9 * 9400**2
