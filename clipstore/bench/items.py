"""The images, captions and model of `clipstore bench embed`."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from clipstore.demo.scenes import CAPTIONS, draw_examples
from clipstore.store.layout import Store, split_id

if TYPE_CHECKING:
    from clipstore.bench.embed import BenchEmbedOptions

_COCO_SIZE = (640, 480)
# Standard deviation of noise and JPEG quality with which drawn images are as large as COCO's files, 160 KB.
_NOISE, _QUALITY = 14.0, 90
_CLIP_MERGES = 48_894  # merges in CLIP's vocabulary of 49,408 tokens


def write_items(store: Store, folder: Path, options: BenchEmbedOptions) -> tuple[Path, str]:
    """Write a CSV file of images and captions into a folder; its path, and the source of the images.

    Images and captions are those of the options' splits, or drawn where there are no splits, or none of their image
    files exist.

    Raises:
        NotFoundError: a split does not exist.
    """
    (folder / "images").mkdir()
    images, captions = _from_splits(store, folder, options) if options.splits else ([], [])
    source = " and ".join(options.splits)
    if not images:
        images, drawn = _draw(folder, options)
        captions = captions or drawn
        source = "drawn"
    path = folder / "items.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image_path", "caption"])
        for number in range(max(len(images), len(captions))):
            writer.writerow([images[number % len(images)], captions[number % len(captions)]])
    return path, source


def write_model(folder: Path, captions: list[str], seed: int) -> Path:
    """Write a random ViT-B/32 with a tokenizer trained on the captions, with about as many tokens as CLIP's.

    On the captions of COCO's val2017 it makes 13.3 tokens per caption, and CLIP's own 13.5.
    """
    from clipstore.demo.tokenizer import train_tokenizer
    from clipstore.encoders.random_clip import write_random_clip

    train_tokenizer(captions, max_merges=_CLIP_MERGES).save_pretrained(folder / "tokenizer")
    write_random_clip(folder / "model", seed=seed, tokenizer=folder / "tokenizer")
    return folder / "model"


def _from_splits(store: Store, folder: Path, options: BenchEmbedOptions) -> tuple[list[str], list[str]]:
    """The existing image files of the splits, linked into the folder, and their captions."""
    with store.catalog.read() as session:
        splits = [split_id(session, name) for name in options.splits]
        session.stage(scope=session.table("embed/scope", splits=splits))
        paths = [Path(row["path"]) for row in session.rows("bench/split_image_files")]
        captions = session.rows("bench/split_captions", captions=options.captions)
    images: list[str] = []
    for path in islice((path for path in paths if path.is_file()), options.images):
        images.append(f"images/{len(images)}{path.suffix}")
        (folder / images[-1]).symlink_to(path)
    return images, [row["text"] for row in captions]


def _draw(folder: Path, options: BenchEmbedOptions) -> tuple[list[str], list[str]]:
    """Draw scenes in the size of COCO's images; captions of these, and of further scenes until there are enough."""
    total = max(options.images, -(-options.captions // CAPTIONS))
    rng = np.random.default_rng(options.seed)
    images: list[str] = []
    captions: list[str] = []
    for example in draw_examples(total, seed=options.seed, stream="bench"):
        captions += [f"{caption} ({example.number})" for caption in example.captions]
        if len(images) < options.images:
            images.append(f"images/{example.number}.jpg")
            pixels = np.asarray(example.picture.resize(_COCO_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
            noise = rng.normal(0, _NOISE, pixels.shape).astype(np.float32)
            noisy = (pixels + noise).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / images[-1], quality=_QUALITY)
        options.on_progress("drawing images and captions", example.number, total)
    return images, captions[: options.captions]
