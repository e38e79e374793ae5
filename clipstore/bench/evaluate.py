"""`clipstore bench eval`: the time of exact ranking compared with the bare matrix products of the same size."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
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
from clipstore.pipeline.evaluate.options import TOP_K
from clipstore.process import peak_memory
from clipstore.progress import Progress, no_progress
from clipstore.records import Row, TowerName
from clipstore.shards import Shard, ShardInfo
from clipstore.store.vectors import StoredRows

if TYPE_CHECKING:
    from clipstore.ranking import Ranks

_ROWS = 8192  # rows of a shard
_BLOCK = (1024, 8192)  # rows and columns of a bare product: larger blocks are not faster
_WARM_UP_ROWS = 64  # of each side, ranked before the first repetition


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """The size of the synthetic vectors, the number of repetitions, and the options of the ranking.

    `memory` is in bytes; `screen` is the precision of the matrix products (see `rank_pairs`).
    """

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


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """Vectors to rank: `pairs` (P, 2) are rows of `images` and `texts`."""

    images: StoredRows
    texts: StoredRows
    pairs: NDArray[np.int64]


@dataclass(kw_only=True)
class _Times:
    """The seconds of each repetition, and the peak memory in bytes before the bare products."""

    checked: list[float] = field(default_factory=list)
    unchecked: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    peak_memory: int = 0


def bench_eval(options: BenchOptions) -> Row:
    """Rank synthetic vectors from shards, and multiply the same vectors in float32, alternately.

    Each repetition ranks twice: comparing every shard with its checksum, as the first evaluation of a process does
    ("seconds"), and without the comparison ("unchecked_seconds"). Times are medians over the repetitions;
    "checksum_ratio" and "share" are medians of the ratios. "peak_memory" is that of the process before the vectors are
    loaded for the bare products.
    """
    # Imported here: `--help` loads no torch.
    import torch

    device = checked_device(options.device)
    with tempfile.TemporaryDirectory(prefix="clipstore-bench-") as folder:
        problem = _problem(Path(folder), options)
        _rank(_part(problem, _WARM_UP_ROWS), device, options)  # numba compiles once for each machine
        times = _Times()
        for repetition in range(options.repeat):
            ranks = _repeat(problem, device, options, times, checked_first=repetition % 2 == 0)
    return {
        "images": options.images,
        "captions": options.captions,
        "dim": options.dim,
        "device": device,
        "threads": torch.get_num_threads(),
        "screen": ranks.screen,
        "seconds": median(times.checked),
        "unchecked_seconds": median(times.unchecked),
        "checksum_ratio": _median_ratio(times.checked, times.unchecked),
        "product_seconds": median(times.products),
        "share": _median_ratio(times.checked, times.products),
        "rechecked": ranks.rechecked / (options.images * options.captions),
        "peak_memory": times.peak_memory,
        **_recall(ranks),
    }


def _median_ratio(times: list[float], others: list[float]) -> float:
    return median(time / other for time, other in zip(times, others, strict=True))


def _problem(folder: Path, options: BenchOptions) -> _Problem:
    vectors = SyntheticVectors(images=options.images, captions=options.captions, dim=options.dim, seed=options.seed)
    captions = np.arange(options.captions)
    return _Problem(
        images=_write_shards(folder, "image", vectors.image_blocks(), options),
        texts=_write_shards(folder, "text", vectors.caption_blocks(), options),
        pairs=np.stack([vectors.image_of(captions), captions], axis=1),
    )


def _part(problem: _Problem, rows: int) -> _Problem:
    """The first rows of each side, with one pair."""
    images, texts = (side.take(np.arange(min(rows, len(side.rows)))) for side in (problem.images, problem.texts))
    return _Problem(images=images, texts=texts, pairs=np.zeros((1, 2), dtype=np.int64))


def _repeat(problem: _Problem, device: str, options: BenchOptions, times: _Times, *, checked_first: bool) -> Ranks:
    """One repetition. The order alternates: the second of two equal rankings can be faster."""
    for check in (checked_first, not checked_first):
        if check:
            shards.clear_checks()
        seconds, ranks = _rank(problem, device, options)
        (times.checked if check else times.unchecked).append(seconds)
        times.peak_memory = times.peak_memory or peak_memory()
    times.products.append(_product_seconds(problem.images[:], problem.texts[:], device, options))
    return ranks


def _rank(problem: _Problem, device: str, options: BenchOptions) -> tuple[float, Ranks]:
    """The duration of ranking in seconds, and the ranks."""
    from clipstore.ranking import rank_pairs

    start = time.perf_counter()
    ranks = rank_pairs(
        problem.images,
        problem.texts,
        problem.pairs,
        top_k=TOP_K,
        memory=options.memory,
        device=device,
        screen=options.screen,
        on_progress=lambda done, total: options.on_progress("captions ranked", done, total),
    )
    return time.perf_counter() - start, ranks


def _write_shards(
    folder: Path, tower: TowerName, blocks: Iterator[NDArray[np.float32]], options: BenchOptions
) -> StoredRows:
    """Write vectors into shards of _ROWS rows or more, as `clipstore embed` does."""
    info = ShardInfo(
        kind="vectors",
        tower=tower,
        fingerprint=f"{tower} vectors of a benchmark",
        model="synthetic",
        family="synthetic",
        precision="fp32",
        normalised=True,
        cut=0,
        software=shards.software(clipstore=version("clipstore")),
    )
    total = options.images if tower == "image" else options.captions
    written: list[Shard] = []
    sizes: list[int] = []
    pending: list[NDArray[np.float32]] = []
    number = count()
    for block in blocks:
        pending.append(block)
        rows = sum(map(len, pending))
        if rows >= _ROWS or sum(sizes) + rows == total:
            path = folder / f"{tower}-{next(number)}.h5"
            contents = [f"{sum(sizes) + row:064x}" for row in range(rows)]
            written.append(shards.write_shard(path, info, np.concatenate(pending), contents, {}))
            sizes.append(rows)
            pending = []
            options.on_progress(f"{tower} vectors generated", sum(sizes), total)
    return StoredRows(
        shards=[shard.registered() for shard in written],
        stamps=[shards.file_stamp(shard.path) for shard in written],
        shard=np.repeat(np.arange(len(written)), sizes),
        rows=np.concatenate([np.arange(size) for size in sizes]),
        dim=options.dim,
        dtypes=["float32"],
    )


def _product_seconds(images: NDArray[Any], texts: NDArray[Any], device: str, options: BenchOptions) -> float:
    """The duration of the float32 products of all blocks, with the vectors in memory: the lower bound of ranking."""
    import torch

    left, right = (torch.from_numpy(side).to(device) for side in (images, texts))
    out = torch.empty(_BLOCK, device=device)
    start = time.perf_counter()
    for row in range(0, len(left), _BLOCK[0]):
        for column in range(0, len(right), _BLOCK[1]):
            rows, columns = left[row : row + _BLOCK[0]], right[column : column + _BLOCK[1]]
            torch.mm(rows, columns.T, out=out[: len(rows), : len(columns)])
        options.on_progress("images multiplied", row + len(rows), len(left))
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _recall(ranks: Ranks) -> Row:
    """Recall@1 of both directions, which shows how difficult the synthetic vectors are."""
    best = np.full(len(ranks.image_to_text.hits), np.iinfo(np.int64).max)
    np.minimum.at(best, ranks.image_to_text.query, ranks.image_to_text.n_greater)
    return {
        "text_retrieval_recall@1": float((best == 0).mean()),
        "image_retrieval_recall@1": float((ranks.text_to_image.n_greater == 0).mean()),
    }
