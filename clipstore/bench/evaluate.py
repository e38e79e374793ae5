"""`clipstore bench eval`: what ranking costs beside the bare matrix products of the same size."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipstore import choices, shards
from clipstore.bench.vectors import SyntheticVectors
from clipstore.device import checked_device
from clipstore.pipeline.evaluate.rank import TOP_K, peak_memory
from clipstore.progress import Progress, no_progress
from clipstore.records import Row, TowerName
from clipstore.shards import ShardInfo
from clipstore.store.vectors import StoredRows

if TYPE_CHECKING:
    from clipstore.ranking import Ranks

_ROWS = 8192  # rows of a shard
_BLOCK = (1024, 8192)  # rows and columns of a bare product: larger ones are no faster


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What to measure: made vectors of this size, `repeat` times; `memory` in bytes."""

    images: int = 5000
    captions: int = 25_000
    dim: int = 512
    seed: int = 0
    repeat: int = 3
    screen: choices.ScreenChoice = "auto"
    memory: int = choices.DEFAULT_MEMORY
    device: str = "cpu"
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        choices.check(self)


def bench_eval(options: BenchOptions) -> Row:
    """Rank made vectors from shards, and multiply the same vectors in float32, in turn; medians of both.

    Each turn ranks twice: with every shard compared with its checksum, as the first evaluation of a process does it
    ("seconds"), and without ("unchecked_seconds"); "checksum_ratio" is the median of the turns' quotients. The peak of
    memory is of the whole process, before the vectors are in memory for the bare products.
    """
    # Imported here and not above: `--help` needs no torch.
    import torch

    device = checked_device(options.device)
    made = SyntheticVectors(images=options.images, captions=options.captions, dim=options.dim, seed=options.seed)
    captions = np.arange(options.captions)
    pairs = np.stack([made.image_of(captions), captions], axis=1)
    with tempfile.TemporaryDirectory(prefix="clipstore-bench-") as folder:
        images = _stored(Path(folder), "image", made.image_blocks(), options)
        texts = _stored(Path(folder), "text", made.caption_blocks(), options)
        vectors = _Vectors(images=images, texts=texts, pairs=pairs)
        few = [np.arange(min(64, len(side.rows))) for side in (images, texts)]
        small = _Vectors(images=images.at(few[0]), texts=texts.at(few[1]), pairs=np.zeros((1, 2), dtype=np.int64))
        _ranked(small, device, options)  # compiles, once a machine
        checked: list[float] = []
        unchecked: list[float] = []
        products, peak = [], 0
        for turn in range(options.repeat):
            for check in (True, False) if turn % 2 == 0 else (False, True):  # neither always gains from being second
                if check:
                    shards.clear_checks()
                seconds, ranks = _ranked(vectors, device, options)
                (checked if check else unchecked).append(seconds)
                peak = peak or peak_memory()
            products.append(_product_seconds(images[:], texts[:], device, options))
    return {
        "images": options.images,
        "captions": options.captions,
        "dim": options.dim,
        "device": device,
        "threads": torch.get_num_threads(),
        "screen": ranks.screen,
        "seconds": median(checked),
        "unchecked_seconds": median(unchecked),
        "checksum_ratio": median(one / other for one, other in zip(checked, unchecked, strict=True)),
        "product_seconds": median(products),
        "share": median(one / other for one, other in zip(checked, products, strict=True)),
        "rechecked": ranks.rechecked / (options.images * options.captions),
        "peak_memory": peak,
        **_recall(ranks),
    }


@dataclass(frozen=True, kw_only=True)
class _Vectors:
    """What is ranked: `pairs` (P, 2) are rows of `images` and `texts`."""

    images: StoredRows
    texts: StoredRows
    pairs: NDArray[np.int64]


def _ranked(vectors: _Vectors, device: str, options: BenchOptions) -> tuple[float, Ranks]:
    """The seconds that ranking takes, and the ranks."""
    from clipstore.ranking import rank_pairs

    began = time.perf_counter()
    ranks = rank_pairs(
        vectors.images,
        vectors.texts,
        vectors.pairs,
        top_k=TOP_K,
        memory=options.memory,
        device=device,
        screen=options.screen,
        on_progress=lambda done, total: options.on_progress("captions ranked", done, total),
    )
    return time.perf_counter() - began, ranks


def _stored(folder: Path, tower: TowerName, blocks: Iterator[NDArray[np.float32]], options: BenchOptions) -> StoredRows:
    """Write vectors into shards as embed would, and give them back to be read."""
    info = ShardInfo(
        kind="vectors",
        tower=tower,
        fingerprint=f"{tower} vectors made for a benchmark",
        model="made",
        family="made",
        precision="fp32",
        normalised=True,
        cut=0,
        software=shards.software(clipstore=version("clipstore")),
    )
    total = options.images if tower == "image" else options.captions
    paths: list[Path] = []
    sizes: list[int] = []
    waiting: list[NDArray[np.float32]] = []
    number = count()
    for block in blocks:
        waiting.append(block)
        ready = sum(map(len, waiting))
        if ready >= _ROWS or sum(sizes) + ready == total:
            path = folder / f"{tower}-{next(number)}.h5"
            contents = [f"{tower}{sum(sizes) + row}" for row in range(ready)]
            shards.write_shard(path, info, np.concatenate(waiting), contents, {})
            paths.append(path)
            sizes.append(ready)
            waiting = []
            options.on_progress(f"{tower} vectors made", sum(sizes), total)
    return StoredRows(
        paths=paths,
        shard=np.repeat(np.arange(len(paths)), sizes),
        rows=np.concatenate([np.arange(size) for size in sizes]),
        dim=options.dim,
        dtypes=["float32"],
        stamps=[shards.file_stamp(path) for path in paths],
    )


def _product_seconds(images: NDArray[Any], texts: NDArray[Any], device: str, options: BenchOptions) -> float:
    """The time of nothing but the float32 products of all blocks, the vectors being in memory."""
    import torch

    left, right = (torch.from_numpy(side).to(device) for side in (images, texts))
    out = torch.empty(_BLOCK, device=device)
    began = time.perf_counter()
    for low in range(0, len(left), _BLOCK[0]):
        for start in range(0, len(right), _BLOCK[1]):
            one, other = left[low : low + _BLOCK[0]], right[start : start + _BLOCK[1]]
            torch.mm(one, other.T, out=out[: len(one), : len(other)])
        options.on_progress("images multiplied", low + len(one), len(left))
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _recall(ranks: Ranks) -> Row:
    """Recall@1 of both directions, to show how hard the made vectors are."""
    best = np.full(len(ranks.image_to_text.hits), np.iinfo(np.int64).max)
    np.minimum.at(best, ranks.image_to_text.query, ranks.image_to_text.n_greater)
    return {
        "text_retrieval_recall@1": float((best == 0).mean()),
        "image_retrieval_recall@1": float((ranks.text_to_image.n_greater == 0).mean()),
    }
