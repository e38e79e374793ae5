"""Encoders, their vectors and fingerprints, and changes to model folders, for the tests of encoders."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from clip_folder import edit_json
from PIL import Image

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.images import decode_pixels
from clipstore.encoders.loading import load_model
from clipstore.records import Model

LONG = "a photo of " + ", ".join(f"{n} cats and {n} dogs" for n in range(60))

MIXED = [
    "cat",
    "A  Photo of a CAT!!",
    "naïve café — 猫, 'don't' #5 😀",
    "  two\tdogs\nrun ",
    LONG,
]


def model_of(folder: Path, **options: Any) -> Model:
    return Model(name="m", family="clip", base=str(folder), **options)


def open_encoder(model: Model, **options: Any) -> Encoder:
    return Encoder(load_model(model), **options)


def image_bytes(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def pooled(output: Any) -> np.ndarray:
    return getattr(output, "pooler_output", output).numpy()


def our_images(encoder: Encoder, files: list[Path]) -> np.ndarray:
    pixels = [decode_pixels(file.read_bytes(), encoder.preprocessing) for file in files]
    return encoder.project(encoder.image_features(pixels))


def our_texts(encoder: Encoder, texts: list[str]) -> np.ndarray:
    return encoder.text_vectors(encoder.tokenize(texts).ids)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fingerprints(model: Model, precision: str = "fp32") -> dict[str, str | None]:
    image, text = fingerprint_towers(model, precision)
    return {"image": image.fingerprint, "backbone": image.backbone, "text": text.fingerprint}


def changed_parts(before: dict[str, str | None], after: dict[str, str | None]) -> set[str]:
    return {part for part in before if before[part] != after[part]}


def edit_config(folder: Path, **changes: Any) -> None:
    edit_json(folder / "config.json", **changes)


def edit_tower(folder: Path, tower: str, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, **{f"{tower}_config": config[f"{tower}_config"] | changes})


def edit_preprocessor(folder: Path, **changes: Any) -> None:
    edit_json(folder / "preprocessor_config.json", **changes)
