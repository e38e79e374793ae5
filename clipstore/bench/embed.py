"""`clipstore bench embed`: the rate of embedding relative to what decoding and the model's forward pass allow."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipstore import choices
from clipstore.bench.items import write_items, write_model
from clipstore.device import best_precision, checked_device
from clipstore.files import read_image_file
from clipstore.inference.prefetch import prefetch_images
from clipstore.inference.settings import Timings
from clipstore.pipeline.embed.image_files import check_image_files
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.ingest.run import IngestOptions, ingest_csv
from clipstore.process import peak_memory
from clipstore.progress import Progress, no_progress
from clipstore.records import ImageFile, Row
from clipstore.store.layout import Store
from clipstore.store.model_records import add_model

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder

_MODEL = "untrained"
_TRAINED_TOKENIZER = "trained on these captions; CLIP's own makes a few percent more tokens"


@dataclass(frozen=True, kw_only=True)
class BenchEmbedOptions:
    """What to measure, and how often.

    Attributes:
        splits: splits that images and captions are taken from; empty: they are drawn. Images are drawn too if no image
            file of the splits exists.
        base: the model; None: a ViT-B/32 with random weights, and a tokenizer trained on the captions.
        images, captions: maximum numbers.
        repeat: number of repetitions; medians are reported.
        seed: of the weights and the drawn images.
        memory: device memory for weights and batches, in bytes.
        read_delay: also embed with this read latency per image, in seconds (0: do not).
    """

    splits: tuple[str, ...] = ()
    base: str | None = None
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
class _Batches:
    """The batches of embedding: pixels, each uint8 (B, height, width, 3), and token ids."""

    pixels: list[list[NDArray[np.uint8]]]
    ids: list[list[list[int]]]

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(map(len, self.pixels))

    @property
    def texts(self) -> int:
        """The number of texts."""
        return sum(map(len, self.ids))


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """A store without vectors that has the items and the model, the loaded model, and its batches."""

    store: Store
    image_files: list[ImageFile]
    encoder: Encoder
    batches: _Batches
    embedding: EmbedOptions


def bench_embed(store: Store, options: BenchEmbedOptions) -> Row:
    """Time decoding alone, a model alone on prepared batches, and embedding; medians of several repetitions.

    Splits are read from `store`. The limit of decoding and the model together is 1 / (1/decoding + 1/forward) where
    both share the CPU, and on another device the lower rate of the two.

    Raises:
        NotFoundError: a split does not exist.
        ModelError: there is no such device.
    """
    device = checked_device(options.device)
    precision = best_precision(device) if options.precision == "auto" else options.precision
    with tempfile.TemporaryDirectory(prefix="clipstore-bench-") as place:
        folder = Path(place)
        items, source = write_items(store, folder, options)
        bench = _prepare(folder, items, options, device, precision)
        batches = bench.batches
        _time_forward(bench.encoder, replace(batches, pixels=batches.pixels[:4], ids=batches.ids[:4]))  # warms up
        runs = [_measure(bench, options.read_delay) for _ in range(options.repeat)]
    return {
        "device": device,
        "threads": bench.encoder.workers,
        "cores": os.cpu_count(),
        "precision": precision,
        "model": options.base or "ViT-B/32 with random weights",
        "photos": source,
        "tokenizer": f"that of {options.base}" if options.base else _TRAINED_TOKENIZER,
        "images": batches.images,
        "captions": batches.texts,
        "tokens_per_caption": sum(len(ids) for batch in batches.ids for ids in batch) / max(1, batches.texts),
        "repeat": options.repeat,
        "read_delay": options.read_delay,
        **{key: median(run[key] for run in runs) for key in runs[0]},
        "peak_memory": peak_memory(),
    }


def _prepare(
    folder: Path, items: Path, options: BenchEmbedOptions, device: str, precision: choices.PrecisionChoice
) -> _Bench:
    # Imported here and not above: `--help` needs no torch.
    from clipstore.encoders.encoder import Encoder
    from clipstore.encoders.loading import load_model

    store = Store(folder / "store")
    ingest_csv(store, items, name="bench", options=IngestOptions(follow_links=True))  # links to the images
    check_image_files(store, None)
    with store.catalog.read() as session:
        image_files = [ImageFile(**row) for row in session.rows("bench/image_files")]
        texts = [row["text"] for row in session.rows("bench/captions")]
    model = add_model(store, _MODEL, base=options.base or str(write_model(folder, texts, options.seed)))
    encoder = Encoder(load_model(model), precision=precision, device=device, compiled=options.compiled)
    embedding = EmbedOptions(
        precision=precision,
        memory=options.memory,
        devices=(options.device,) if options.device else (),
        compiled=options.compiled,
        on_progress=options.on_progress,
    )
    batches = _batches(encoder, image_files, texts, options.memory - encoder.weight_bytes)
    return _Bench(store=store, image_files=image_files, encoder=encoder, batches=batches, embedding=embedding)


def _batches(encoder: Encoder, image_files: list[ImageFile], texts: list[str], memory: int) -> _Batches:
    """All images and texts in the batches that embedding makes within `memory` bytes."""
    decoded = [variants[0] for _, variants in prefetch_images(image_files, [encoder.preprocessing], Timings())]
    pixels = [image for image in decoded if isinstance(image, np.ndarray)]
    size = max(1, encoder.batch_tokens("image", memory) // encoder.image_tokens)
    ids = encoder.tokenize(texts).ids
    return _Batches(
        pixels=[pixels[start : start + size] for start in range(0, len(pixels), size)],
        ids=[
            [ids[number] for number in batch]
            for batch in encoder.text_batches(ids, encoder.batch_tokens("text", memory))
        ],
    )


def _measure(bench: _Bench, read_delay: float) -> dict[str, float]:
    """One repetition: items per second, and shares of the limits."""
    files, encoder = bench.image_files, bench.encoder
    decode = len(files) / _seconds(lambda: _exhaust(prefetch_images(files, [encoder.preprocessing], Timings())))
    image_forward, text_forward = _time_forward(encoder, bench.batches)
    bench.embedding.on_progress("decoding alone, and the model alone", 1, 1)
    images, captions = _time_embed(bench.store, bench.embedding)
    limit = 1 / (1 / decode + 1 / image_forward) if encoder.device.type == "cpu" else min(decode, image_forward)
    result = {
        "images_per_second": images,
        "captions_per_second": captions,
        "decode_alone": decode,
        "image_forward_alone": image_forward,
        "image_limit": limit,
        "image_share": images / limit,
        "text_forward_alone": text_forward,
        "text_share": captions / text_forward,
    }
    if read_delay:
        delayed, _ = _time_embed(bench.store, replace(bench.embedding, read=_delayed(read_delay)))
        result |= {"delayed_images_per_second": delayed, "delayed_share": delayed / images}
    return result


def _time_embed(empty: Store, options: EmbedOptions) -> tuple[float, float]:
    """Embed everything into a copy of a store without vectors; images and captions per second."""
    store = Store(empty.root.with_name("embedded"))
    shutil.copytree(empty.root, store.root)
    images, texts = embed(store, [_MODEL], options)
    shutil.rmtree(store.root)
    return images.done / images.seconds, texts.done / texts.seconds


def _time_forward(encoder: Encoder, batches: _Batches) -> tuple[float, float]:
    """Images and captions per second of the model alone, in as many threads as embedding uses."""
    import torch

    def encode_images(pixels: list[NDArray[np.uint8]]) -> None:
        encoder.project(encoder.image_features(pixels))

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(encoder.workers, "clipstore-bench", torch.set_num_threads, (1,)) as pool:
        images = _seconds(lambda: _exhaust(pool.map(encode_images, batches.pixels)))
        texts = _seconds(lambda: _exhaust(pool.map(encoder.text_vectors, batches.ids)))
    torch.set_num_threads(threads)
    return batches.images / images, batches.texts / texts


def _delayed(seconds: float) -> Callable[[Path], bytes]:
    """A file reader with a latency."""

    def read(path: Path) -> bytes:
        time.sleep(seconds)
        return read_image_file(path)

    return read


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _exhaust(iterable: Iterable[Any]) -> None:
    for _ in iterable:
        pass
