"""The benchmarks of a device: ranking against bare products and flat searches, embedding, a training step."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from clipstore.bench.embed import BenchEmbedOptions, bench_embed
from clipstore.bench.evaluate import BenchOptions, bench_eval
from clipstore.bench.vectors import SyntheticVectors
from clipstore.device import best_precision, mixed_precision
from clipstore.encoders.loading import load_model
from clipstore.encoders.lora import LoraModel
from clipstore.encoders.random_clip import VIT_B_32, Sizes, write_random_clip
from clipstore.errors import ClipstoreError
from clipstore.records import Lora, Model, Training
from clipstore.store.layout import Store
from clipstore.training.gradients import Batch, backward

TOP = 10
SMALL = Sizes(dim=16, text=(16, 2, 1), vision=(16, 2, 1))


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is measured.

    Attributes:
        rankings: images and captions of each ranking.
        items: images and captions that are embedded.
        base: the model of embedding; None: a ViT-B/32 with random weights.
        model: the sizes of the model of training.
        steps: batch, chunk and trained towers of each training step.
    """

    rankings: Sequence[tuple[int, int]]
    items: tuple[int, int]
    base: str | None
    model: Sizes
    steps: Sequence[tuple[int, int, tuple[str, ...]]]
    repeat: int = 3


FULL = Amounts(
    rankings=((5_000, 25_000), (40_504, 202_654), (123_287, 616_767)),
    items=(4_096, 50_000),
    base=None,
    model=VIT_B_32,
    steps=((1_024, 64, ("text",)), (64, 64, ("text",)), (64, 64, ("text", "vision"))),
)
TINY = Amounts(
    rankings=((70, 300), (80, 350), (90, 400)),
    items=(4, 8),
    base="bundled:demo",
    model=SMALL,
    steps=((8, 4, ("text",)),),
    repeat=1,
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of the report: what was measured, the values, and why it could not be measured."""

    section: str
    what: str
    values: dict[str, str] = field(default_factory=dict)
    problem: str | None = None


def measure(device: str, amounts: Amounts, on_line: Callable[[str], None]) -> list[Result]:
    """Run all benchmarks; one that fails is a result with its problem."""
    work: list[tuple[str, str, Callable[[], dict[str, str]]]] = [
        *(
            ("Ranking", "{:,} x {:,}".format(*size), partial(_ranking, size, device, amounts.repeat))
            for size in amounts.rankings
        ),
        *(
            ("Embedding", precision, partial(_embedding, device, precision, amounts))
            for precision in dict.fromkeys((best_precision(device), "fp32"))
        ),
        *(
            ("Training", f"batch {step[0]:,}, chunks of {step[1]}, {' and '.join(step[2])}",
             partial(_training, step, device, amounts))
            for step in amounts.steps
        ),
    ]  # fmt: skip
    results = []
    for section, what, run in work:
        on_line(f"{section}: {what}")
        try:
            results.append(Result(section=section, what=what, values=run()))
        except (ClipstoreError, RuntimeError) as error:
            results.append(Result(section=section, what=what, problem=" ".join(str(error).split())))
    return results


def _ranking(size: tuple[int, int], device: str, repeat: int) -> dict[str, str]:
    images, captions = size
    _reset_peak(device)
    row = bench_eval(BenchOptions(images=images, captions=captions, repeat=repeat, device=device))
    values = {
        "ranking": f"{row['seconds']:.3g} s",
        "bare fp32 products": f"{row['product_seconds']:.3g} s",
        "share": f"{row['share']:.2f}",
        "screen": row["screen"],
        "scored again": f"{100 * row['rechecked']:.2f} %",
        "peak on the device": _peak(device),
    }
    return values | {name: run(size, device, repeat) for name, run in _SEARCHES.items()}


def _two_searches(size: tuple[int, int], search: Callable[[Any, Any], object], repeat: int) -> str:
    """The duration of the top hits of all images and of all captions, vectors in host memory."""
    made = SyntheticVectors(images=size[0], captions=size[1], dim=512, seed=0)
    images, captions = (np.concatenate(list(blocks)) for blocks in (made.image_blocks(), made.caption_blocks()))
    seconds = []
    for _ in range(repeat + 1):  # the first one warms up
        start = time.perf_counter()
        search(images, captions)
        search(captions, images)
        seconds.append(time.perf_counter() - start)
    return f"{median(seconds[1:]):.3g} s"


def _faiss(size: tuple[int, int], device: str, repeat: int) -> str:
    try:
        faiss = importlib.import_module("faiss")
    except ImportError:
        return "not installed"
    if device != "cpu" and not hasattr(faiss, "StandardGpuResources"):
        return "not installed"  # faiss-cpu
    resources = None if device == "cpu" else faiss.StandardGpuResources()

    def search(queries: np.ndarray, candidates: np.ndarray) -> None:
        index = faiss.IndexFlatIP(candidates.shape[1])
        if resources:
            index = faiss.index_cpu_to_gpu(resources, torch.device(device).index or 0, index)
        index.add(candidates)
        index.search(queries, TOP)

    return _two_searches(size, search, repeat)


def _cuvs(size: tuple[int, int], _device: str, repeat: int) -> str:
    try:
        brute_force = importlib.import_module("cuvs.neighbors.brute_force")
        cupy = importlib.import_module("cupy")
    except ImportError:
        return "not installed"

    def search(queries: np.ndarray, candidates: np.ndarray) -> None:
        index = brute_force.build(cupy.asarray(candidates), metric="inner_product")
        _, hits = brute_force.search(index, cupy.asarray(queries), TOP)
        cupy.asnumpy(hits)

    return _two_searches(size, search, repeat)


_SEARCHES = {"two faiss searches": _faiss, "two cuVS searches": _cuvs}


def _embedding(device: str, precision: Any, amounts: Amounts) -> dict[str, str]:
    images, captions = amounts.items
    _reset_peak(device)
    with tempfile.TemporaryDirectory(prefix="clipstore-gpu-") as folder:
        options = BenchEmbedOptions(
            base=amounts.base,
            images=images,
            captions=captions,
            repeat=amounts.repeat,
            precision=precision,
            device=device,
        )
        row = bench_embed(Store(Path(folder)), options)
    rates = {
        "images": "images_per_second",
        "decoding alone": "decode_alone",
        "image tower alone": "image_forward_alone",
        "captions": "captions_per_second",
        "text tower alone": "text_forward_alone",
    }
    return {name: f"{row[key]:,.0f} / s" for name, key in rates.items()} | {"peak on the device": _peak(device)}


def _training(step: tuple[int, int, tuple[str, ...]], device: str, amounts: Amounts) -> dict[str, str]:
    """The duration of a step (gradient and optimizer) of a model with random weights, and its memory."""
    size, chunk, towers = step
    training = Training(split="a/b", validation="a/c", heads=True, lora=Lora(towers=towers))
    precision = mixed_precision("auto", device)
    with tempfile.TemporaryDirectory(prefix="clipstore-gpu-") as folder:
        base = write_random_clip(Path(folder) / "model", sizes=amounts.model)
        loaded = load_model(Model(name="m", family="clip", base=str(base)))
    learner = LoraModel(loaded, training, precision=precision, device=device)
    learner.train(on=True)
    optimizer = torch.optim.AdamW(learner.weights().values(), lr=1e-5)
    batch = _batch(learner, size, amounts.model)
    _reset_peak(device)
    seconds = []
    for _ in range(amounts.repeat + 1):  # the first one warms up
        start = time.perf_counter()
        optimizer.zero_grad()
        backward(learner, batch, chunk=chunk, mask_siblings=False)  # returns the loss, for which it waits
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"step": f"{median(seconds[1:]):.3g} s", "precision": precision, "peak on the device": _peak(device)}


def _batch(learner: LoraModel, size: int, sizes: Sizes) -> Batch:
    rng = np.random.default_rng(0)
    captions = [f"a {number} on a {number % 7} with a {number % 11} beside it" for number in range(size)]
    if learner.trains_vision:
        images = torch.from_numpy(rng.integers(0, 256, (size, sizes.pixels, sizes.pixels, 3), dtype=np.uint8))
    else:
        images = torch.from_numpy(rng.normal(size=(size, sizes.vision[0])).astype(np.float32))
    return Batch(images=images, ids=learner.encoder.tokenize(captions).ids, image=torch.arange(size))


def _reset_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: str) -> str:
    return "host memory" if device == "cpu" else f"{torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB"
