"""Pixels equal those of transformers' PIL-based processor."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clip_folder import edit_json
from encoder_helpers import (
    image_bytes,
    noise,
)
from PIL import Image
from transformers import CLIPImageProcessorPil

from clipstore.encoders.images import decode_pixels, read_preprocessing


def transformers_pixels(image: Image.Image, folder: Path) -> np.ndarray:
    return CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")["pixel_values"][0]


def our_pixels(data: bytes, folder: Path) -> np.ndarray:
    preprocessing = read_preprocessing(folder / "preprocessor_config.json")
    pixels = decode_pixels(data, preprocessing)
    return ((pixels * preprocessing.scale - preprocessing.mean) / preprocessing.std).transpose(2, 0, 1)


def assert_same_pixels(data: bytes, folder: Path) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = transformers_pixels(image, folder)
    assert np.abs(our_pixels(data, folder) - expected).max() < 1e-5


def test_pixels_equal_those_of_transformers_on_coco(image_files: list[Path], small_clip: Path) -> None:
    for file in image_files:
        assert_same_pixels(file.read_bytes(), small_clip)


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (1, 300), (300, 1), (7, 5), (223, 225), (224, 224), (225, 224), (500, 333), (337, 901)],
)
def test_pixels_equal_those_of_transformers_at_odd_sizes(width: int, height: int, small_clip: Path) -> None:
    assert_same_pixels(image_bytes(noise(width, height), "PNG"), small_clip)


@pytest.mark.parametrize(
    ("mode", "file_format"), [("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")]
)
def test_pixels_equal_those_of_transformers_in_other_modes(mode: str, file_format: str, small_clip: Path) -> None:
    image = noise(301, 257).convert("1") if mode == "1" else noise(301, 257, mode)
    assert_same_pixels(image_bytes(image, file_format), small_clip)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["index", "table"])
def test_pixels_equal_those_of_transformers_for_a_palette_with_transparency(
    transparency: int | bytes, small_clip: Path
) -> None:
    buffer = io.BytesIO()
    noise(300, 260).quantize(256).save(buffer, "PNG", transparency=transparency)
    assert_same_pixels(buffer.getvalue(), small_clip)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 200}},  # smaller than the crop: black around
        {"size": {"height": 180, "width": 250}, "do_center_crop": False},
        {"size": {"shortest_edge": 300}, "crop_size": {"height": 224, "width": 160}},
        {"do_resize": False},
        {"resample": 2},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    ],
    ids=str,
)
def test_pixels_equal_those_of_transformers_with_other_settings(change: dict[str, Any], folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", **change)
    for size in ((333, 251), (91, 120)):
        assert_same_pixels(image_bytes(noise(*size), "PNG"), folder)
