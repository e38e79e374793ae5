"""`clipstore bench embed`: how near embedding comes to what decoding and the model's forward pass allow."""

from __future__ import annotations

import csv
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipstore import choices
from clipstore.demo.scenes import CAPTIONS, draw_examples
from clipstore.device import best_precision, checked_device
from clipstore.encoders.packing import batches_of
from clipstore.files import read_regular
from clipstore.inference.prefetch import prefetch_images
from clipstore.inference.settings import Timings
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.evaluate.rank import peak_memory
from clipstore.pipeline.ingest.run import ingest_csv
from clipstore.progress import Progress, no_progress
from clipstore.records import ImageFile, Row
from clipstore.store.layout import Store, split_id
from clipstore.store.models import add_model

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

_COCO_PHOTO = (640, 480)
_GRAIN, _QUALITY = 14.0, 90  # noise and JPEG quality that make drawn scenes as large as COCO's photos: some 160 KB
_NAME = "untrained"
_CLIP_MERGES = 48_894  # merges in CLIP's vocabulary of 49,408 tokens


@dataclass(frozen=True, kw_only=True)
class BenchEmbedOptions:
    """What to measure, `repeat` times: items of `splits` (none: drawn ones), at most so many; `memory` in bytes.

    Where no photo of theirs is on this machine, photos are drawn.
    `read_delay` is in seconds: how long each photo is waited for in runs beside those without it.
    """

    splits: tuple[str, ...] = ()
    images: int = 512
    captions: int = 5000
    repeat: int = 3
    seed: int = 0
    precision: choices.PrecisionChoice = "auto"
    memory: int = choices.DEFAULT_MEMORY
    device: str | None = None
    compiled: bool = False
    read_delay: float = 0.0
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)


@dataclass(frozen=True)
class _Ready:
    """Batches as the model gets them: all decoded, all tokenized."""

    pixels: list[NDArray[np.uint8]]
    ids: list[list[list[int]]]

    @property
    def images(self) -> int:
        """How many photos there are."""
        return sum(map(len, self.pixels))

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return sum(map(len, self.ids))


def bench_embed(store: Store, options: BenchEmbedOptions) -> Row:
    """Embed with a ViT-B/32 of random weights; decode alone; run the model alone on ready batches: in turn, medians.

    `store` is asked for the splits alone. What decoding and the model together allow is, where both share the
    processor, 1 / (1/decoding + 1/forward); on another device it is the slower of both.

    Raises:
        NotFoundError: there is no such split.
        ModelError: there is no such device.
    """
    device = checked_device(options.device)
    # Imported here and not above: `--help` needs no torch.
    from clipstore.encoders.clip import ClipEncoder
    from clipstore.encoders.loading import load_clip

    precision = best_precision(device) if options.precision == "auto" else options.precision
    with tempfile.TemporaryDirectory(prefix="clipstore-bench-") as place:
        folder = Path(place)
        items, source = _items(store, folder, options)
        fresh = Store(folder / "fresh")
        ingest_csv(fresh, items, name="bench")
        photos, texts = _distinct(fresh)
        _write_model(folder, texts, options.seed)
        model = add_model(fresh, _NAME, base=str(folder / "model"))
        encoder = ClipEncoder(load_clip(model), precision=precision, device=device, compiled=options.compiled)
        ready = _ready(encoder, photos, texts, options.memory)
        _forward(encoder, replace(ready, pixels=ready.pixels[:4], ids=ready.ids[:4]))  # warms up
        turns = [_turn(folder, fresh, encoder, photos, ready, precision, options) for _ in range(options.repeat)]
    middle = {key: median(turn[key] for turn in turns) for key in turns[0]}
    return {
        "device": device,
        "threads": encoder.workers,
        "cores": os.cpu_count(),
        "precision": precision,
        "photos": source,
        "tokenizer": "trained on these captions; CLIP's own makes a few percent more tokens",
        "images": ready.images,
        "captions": ready.texts,
        "tokens_per_caption": sum(len(one) for batch in ready.ids for one in batch) / max(1, ready.texts),
        "repeat": options.repeat,
        "read_delay": options.read_delay,
        **middle,
        "peak_memory": peak_memory(),
    }


def _turn(
    folder: Path,
    fresh: Store,
    encoder: ClipEncoder,
    photos: list[ImageFile],
    ready: _Ready,
    precision: choices.PrecisionChoice,
    options: BenchEmbedOptions,
) -> dict[str, float]:
    """Everything once: items a second, and shares."""
    decode = len(photos) / _seconds(lambda: _drain(prefetch_images(photos, [encoder.preprocessing], Timings())))
    forward = _forward(encoder, ready)
    options.on_progress("alone: decoding, and the model", 1, 1)
    told = _embedded(folder, fresh, precision, options, 0.0)
    limit = 1 / (1 / decode + 1 / forward["images"]) if encoder.device.type == "cpu" else min(decode, forward["images"])
    told |= {
        "decode_alone": decode,
        "image_forward_alone": forward["images"],
        "image_limit": limit,
        "image_share": told["images_per_second"] / limit,
        "text_forward_alone": forward["captions"],
        "text_share": told["captions_per_second"] / forward["captions"],
    }
    if options.read_delay:
        slow = _embedded(folder, fresh, precision, options, options.read_delay)
        told["delayed_images_per_second"] = slow["images_per_second"]
        told["delayed_share"] = slow["images_per_second"] / told["images_per_second"]
    return told


def _embedded(
    folder: Path, fresh: Store, precision: choices.PrecisionChoice, options: BenchEmbedOptions, delay: float
) -> dict[str, float]:
    """Embed all into a store that has nothing yet: items a second of both towers."""
    store = Store(folder / "embedded")
    shutil.copytree(fresh.root, store.root)

    def read(path: Path) -> bytes:
        time.sleep(delay)
        return read_regular(path)

    how = EmbedOptions(
        precision=precision,
        memory=options.memory,
        devices=(options.device,) if options.device else (),
        compiled=options.compiled,
        on_progress=options.on_progress,
        read=read if delay else read_regular,
    )
    images, texts = embed(store, [_NAME], how)
    shutil.rmtree(store.root)
    return {
        "images_per_second": images.done / images.seconds,
        "captions_per_second": texts.done / texts.seconds,
    }


def _forward(encoder: ClipEncoder, ready: _Ready) -> dict[str, float]:
    """Items a second of the model alone, in the threads that embedding has it run in."""
    import torch

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(encoder.workers, "clipstore-bench", torch.set_num_threads, (1,)) as pool:

        def see(pixels: NDArray[np.uint8]) -> None:
            encoder.project(encoder.image_features(pixels))

        images = _seconds(lambda: _drain(pool.map(see, ready.pixels)))
        texts = _seconds(lambda: _drain(pool.map(encoder.text_vectors, ready.ids)))
    torch.set_num_threads(threads)
    return {"images": ready.images / images, "captions": ready.texts / texts}


def _ready(encoder: ClipEncoder, photos: list[ImageFile], texts: list[str], memory: int) -> _Ready:
    """All photos and texts in the batches that embedding would make."""
    seen = [got[0] for _, got in prefetch_images(photos, [encoder.preprocessing], Timings())]
    pixels = [one for one in seen if isinstance(one, np.ndarray)]
    room = memory - encoder.weight_bytes
    size = max(1, encoder.batch_tokens("image", room) // encoder.image_tokens)
    ids = encoder.tokenize(texts).ids
    return _Ready(
        pixels=[np.stack(pixels[start : start + size]) for start in range(0, len(pixels), size)],
        ids=[[ids[number] for number in batch] for batch in batches_of(ids, encoder.batch_tokens("text", room))],
    )


def _distinct(store: Store) -> tuple[list[ImageFile], list[str]]:
    """The distinct photos and captions of a store."""
    from clipstore.pipeline.embed.image_files import check_image_files

    check_image_files(store, None)
    with store.catalog.read() as session:
        photos = [ImageFile(**row) for row in session.rows("bench/image_files")]
        return photos, [row["text"] for row in session.rows("bench/captions")]


def _items(store: Store, folder: Path, options: BenchEmbedOptions) -> tuple[Path, str]:
    """A CSV file of photos and captions, and where the photos are from: the user's splits, or drawn."""
    (folder / "photos").mkdir()
    photos, captions = _of_splits(store, folder, options) if options.splits else ([], [])
    source = " and ".join(options.splits)
    if not photos:
        photos, drawn = _drawn(folder, options)
        captions = captions or drawn
        source = "drawn"
    file = folder / "items.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["image_path", "caption"])
        for number in range(max(len(photos), len(captions))):
            writer.writerow([photos[number % len(photos)], captions[number % len(captions)]])
    return file, source


def _of_splits(store: Store, folder: Path, options: BenchEmbedOptions) -> tuple[list[str], list[str]]:
    """Photos of the splits that are there, linked into the folder, and captions."""
    with store.catalog.read() as session:
        splits = [split_id(session, name) for name in options.splits]
        session.stage(scope=session.table("embed/scope", splits=splits))
        paths = [Path(row["path"]) for row in session.rows("bench/split_image_files")]
        captions = session.rows("bench/split_captions", captions=options.captions)
    photos: list[str] = []
    for path in islice((path for path in paths if path.is_file()), options.images):
        photos.append(f"photos/{len(photos)}{path.suffix}")
        (folder / photos[-1]).symlink_to(path)
    return photos, [row["text"] for row in captions]


def _drawn(folder: Path, options: BenchEmbedOptions) -> tuple[list[str], list[str]]:
    """Drawn scenes as large as COCO's photos, and captions of them and of as many more as are asked."""
    total = max(options.images, -(-options.captions // CAPTIONS))
    rng = np.random.default_rng(options.seed)
    photos: list[str] = []
    captions: list[str] = []
    for example in draw_examples(total, seed=options.seed, stream="bench"):
        captions += [f"{caption} ({example.number})" for caption in example.captions]
        if len(photos) < options.images:
            photos.append(f"photos/{example.number}.jpg")
            picture = np.asarray(example.picture.resize(_COCO_PHOTO, Image.Resampling.BICUBIC), dtype=np.float32)
            grain = rng.normal(0, _GRAIN, picture.shape).astype(np.float32)
            grainy = (picture + grain).clip(0, 255).astype(np.uint8)
            Image.fromarray(grainy).save(folder / photos[-1], quality=_QUALITY)
        options.on_progress("drawing photos and captions", example.number, total)
    return photos, captions[: options.captions]


def _write_model(folder: Path, captions: list[str], seed: int) -> None:
    """Write a random ViT-B/32 with a tokenizer trained on the captions, with about as many tokens as CLIP's.

    On the captions of COCO's val2017 it makes 13.3 tokens per caption, and CLIP's own 13.5.
    """
    from clipstore.demo.tokenizer import train_tokenizer
    from clipstore.encoders.random_clip import write_random_clip

    train_tokenizer(captions, max_merges=_CLIP_MERGES).save_pretrained(folder / "tokenizer")
    write_random_clip(folder / "model", seed=seed, tokenizer=folder / "tokenizer")


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _drain(what: Iterable[Any]) -> None:
    for _ in what:
        pass
