"""Ranking beside its peers: the same made vectors, in one process, in turn, and whether the answers agree.

    pip install --constraint constraints.txt '.[bench]'
    python tests/bench/peers_eval.py
    python tests/bench/peers_eval.py --images 500 --captions 2500 --repeat 3 --json

Every peer runs once unmeasured (numba compiles then; these answers are the ones compared) and then once a round.
CLIP_benchmark is its own `evaluate`, at its command line's batch size of 64, with a model that only hands the vectors
over. It is read from its wheel, which pip downloads: installed, it would want torchvision. Where its scores and masks
do not fit the free memory it is not run, and the table says so. Peaks are what the process grew by during a run; only
Linux tells. The exit code is 1 where answers disagree.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, starmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import click
import faiss
import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from clipstore.bench.vectors import SyntheticVectors
from clipstore.ranking import DirectionRanks, Ranks, rank_pairs

WHEEL = "clip_benchmark==1.6.2"
TOP, RECALLS, BATCH, BLOCK = 10, [1, 5, 10], 64, (1024, 8192)
Verdict = tuple[bool, str]


class Task(NamedTuple):
    """What is ranked: images (N, D) and texts (M, D) in float32; text j belongs to image `of[j]`, which never falls."""

    images: torch.Tensor
    texts: torch.Tensor
    of: torch.Tensor


def ours(task: Task) -> Ranks:
    pairs = torch.stack([task.of, torch.arange(len(task.of))], dim=1).numpy()
    return rank_pairs(task.images.numpy(), task.texts.numpy(), pairs, top_k=TOP)


def faiss_search(task: Task) -> list[NDArray[np.int64]]:
    found = []
    for queries, candidates in ((task.images, task.texts), (task.texts, task.images)):
        index = faiss.IndexFlatIP(candidates.shape[1])
        index.add(candidates.numpy())
        found.append(index.search(queries.numpy(), TOP)[1])
    return found


def products(task: Task) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Every block of the fp32 product, in one buffer."""
    buffer = torch.empty(BLOCK[0] * BLOCK[1])
    for row in range(0, len(task.images), BLOCK[0]):
        for column in range(0, len(task.texts), BLOCK[1]):
            rows, columns = slice(row, row + BLOCK[0]), slice(column, column + BLOCK[1])
            left, right = task.images[rows], task.texts[columns]
            out = buffer[: len(left) * len(right)].view(len(left), len(right))
            yield rows, columns, torch.mm(left, right.T, out=out)


def torch_count(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """How many others score above each text's pair: among all texts, among all images."""
    parts = zip(task.of.split(BLOCK[1]), task.texts.split(BLOCK[1]), strict=True)
    target = torch.cat([(task.images[of] * texts).sum(dim=1) for of, texts in parts])
    layer = torch.arange(len(task.of)) - torch.searchsorted(task.of, task.of)  # which of its image's texts it is
    asked = torch.full((int(layer.max()) + 1, len(task.images)), torch.nan)
    asked[layer, task.of] = target
    by_image, by_text = torch.zeros(asked.shape, dtype=torch.int64), torch.zeros(len(target), dtype=torch.int64)
    for rows, columns, scores in products(task):
        for counts, scored in zip(by_image, asked, strict=True):
            counts[rows] += (scores > scored[rows, None]).sum(dim=1)
        by_text[columns] += (scores > target[columns]).sum(dim=0)
        of = task.of[columns]
        own = torch.nonzero((of >= rows.start) & (of < rows.stop)).squeeze(1)  # a pair is not above itself
        above = (scores[of[own] - rows.start, own] > target[columns][own]).long()
        by_image[layer[columns][own], of[own]] -= above
        by_text[columns.start + own] -= above
    return by_image[layer, task.of], by_text


def clip_benchmark_need(task: Task) -> int:
    """Bytes: fp32 scores and a bool mask, N x M; a batch's one-hot of 10 and its product, int64; vectors, twice."""
    (images, width), texts = task.images.shape, len(task.texts)
    return images * texts * 5 + BATCH * TOP * max(images, texts) * 16 + (images + texts) * width * 8


def clip_benchmark(task: Task, module: Any) -> list[list[float]]:
    first = torch.searchsorted(task.of, torch.arange(len(task.images) + 1)).tolist()
    captions = list(starmap(range, pairwise(first)))
    batches = [(part, captions[at * BATCH : (at + 1) * BATCH]) for at, part in enumerate(task.images.split(BATCH))]
    model = SimpleNamespace(encode_image=lambda rows: rows, encode_text=lambda rows: rows)
    told = module.evaluate(model, batches, lambda rows: task.texts[rows], "cpu", amp=False, recall_k_list=RECALLS)
    return [[told[f"{found}_retrieval_recall@{k}"] for k in RECALLS] for found in ("text", "image")]


def load_clip_benchmark() -> Any:
    """CLIP_benchmark's module of retrieval metrics, imported out of the wheel; it needs torch and tqdm alone."""
    with tempfile.TemporaryDirectory() as place:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, WHEEL]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        wheel = next(Path(place).glob("*.whl"), None)
        if wheel is None:
            raise OSError(f"pip cannot download {WHEEL}: {done.stderr.strip()[-200:]}")
        sys.path.insert(0, str(wheel))
        module: Any = importlib.import_module("clip_benchmark.metrics.zeroshot_retrieval")
        sys.path.remove(str(wheel))
    module.tqdm = iter  # no progress bar
    return module


def measure(run: Callable[[], Any]) -> tuple[float, int]:
    """Seconds of one run, and how many bytes the process grew by at its height; 0 where the system does not tell."""
    status, linux = Path("/proc/self/status"), sys.platform == "linux"
    if linux:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    highest = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if linux else None
    return seconds, int(highest[1]) * 1024 - before if highest else 0


def compare_hits(
    ranks: DirectionRanks, found: NDArray[np.int64], queries: torch.Tensor, others: torch.Tensor
) -> Verdict:
    """Another hit at the same place is fp32's doing if its score is the same but for what fp32 can lose."""
    rows, places = np.nonzero(found != ranks.hits)
    cells = zip(queries[rows].double(), others[found[rows, places]].double(), strict=True)
    theirs = np.array([float(one @ other) for one, other in cells])
    gap = np.abs(theirs - ranks.hit_scores[rows, places]).max(initial=0)
    said = f"{1 - len(rows) / found.size:.4%} of {found.size:,} hits the same, the others' scores within {gap:.1e}"
    return bool(gap <= 2 * queries.shape[1] * 2.0**-24), said


def compare_counts(ranks: DirectionRanks, found: torch.Tensor) -> Verdict:
    off = np.abs(found.numpy() - ranks.n_greater)
    return bool(
        off.mean() < 0.1
    ), f"{np.mean(off == 0):.4%} of {len(off):,} counts the same, off by {off.max()} at most"


def compare_recall(ranks: DirectionRanks, found: list[float]) -> Verdict:
    """Theirs lies between ours with all ties against the query and ours with all for it; one in 1,000 may be fp32's."""
    queries = int(ranks.query.max()) + 1
    best = np.full((2, queries, 1), np.iinfo(np.int64).max)
    np.minimum.at(best[0, :, 0], ranks.query, ranks.n_greater + ranks.n_equal)
    np.minimum.at(best[1, :, 0], ranks.query, ranks.n_greater)
    low, high = (best < np.array(RECALLS)).mean(axis=1)
    outside = (np.maximum(low - found, found - high).clip(min=0) * queries).max()
    told = ", ".join(f"{one:.5f} in [{a:.5f}, {b:.5f}]" for one, a, b in zip(found, low, high, strict=True))
    return bool(outside <= max(1, queries / 1000)), f"Recall@1/5/10 in ours by ties: {told}"


def agreement(task: Task, answers: list[Any]) -> Iterator[Verdict]:
    """What the peers' answers, in the order of the table, say of ours."""
    ranks, hits, counts, _, *recall = answers
    for at, direction in enumerate(("image -> text", "text -> image")):
        one = (ranks.image_to_text, ranks.text_to_image)[at]
        told = {"faiss": compare_hits(one, hits[at], task[at], task[1 - at])}
        told["torch"] = compare_counts(one, counts[at])
        if recall:
            told["CLIP_benchmark"] = compare_recall(one, recall[0][at])
        yield from ((ok, f"{peer}, {direction}: {said}") for peer, (ok, said) in told.items())


def machine() -> str:
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "numba", "numpy", "faiss-cpu")]
    return (
        f"{cpu[1] if cpu else platform.processor()}, {torch.get_num_threads()} threads; {', '.join([*versions, WHEEL])}"
    )


@click.command()
@click.option("--images", default=5000, show_default=True, type=click.IntRange(min=TOP))
@click.option("--captions", default=25000, show_default=True, help="At least one for each image.")
@click.option("--dim", default=512, show_default=True, type=click.IntRange(min=2))
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(min=1), help="RankedGallery rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(images: int, captions: int, dim: int, repeat: int, as_json: bool) -> None:
    """Compare clipstore's ranking with faiss, torch and CLIP_benchmark on made vectors."""
    made = SyntheticVectors(images=images, captions=max(captions, images), dim=dim)
    sides = [torch.from_numpy(np.concatenate(list(side))) for side in (made.image_blocks(), made.caption_blocks())]
    task = Task(*sides, torch.from_numpy(made.image_of(np.arange(len(sides[1])))))
    faiss.omp_set_num_threads(torch.get_num_threads())
    peers: dict[str, tuple[str, Callable[[], Any]]] = {
        "clipstore rank_pairs": (f"all ranks and top {TOP}, exact", lambda: ours(task)),
        "faiss IndexFlatIP, building included": (f"top {TOP}", lambda: faiss_search(task)),
        "torch, blocked count in fp32": ("all ranks", lambda: torch_count(task)),
        "the fp32 product alone, in blocks": ("nothing", lambda: sum(1 for _ in products(task))),
    }
    need, free = clip_benchmark_need(task), psutil.virtual_memory().available
    note = f"CLIP_benchmark evaluate: needs {need / 2**30:.1f} GB by its sizes, {free / 2**30:.1f} GB are free"
    if need < free:
        module = load_clip_benchmark()
        peers["CLIP_benchmark evaluate"] = "Recall@1/5/10", lambda: clip_benchmark(task, module)
    else:
        note += "; not run"

    answers = [run() for _, run in peers.values()]
    rounds = [[measure(run) for _, run in peers.values()] for _ in range(repeat)]
    rows: list[dict[str, Any]] = []
    for (what, (yields, _)), runs in zip(peers.items(), zip(*rounds, strict=True), strict=True):
        seconds, peaks = zip(*runs, strict=True)
        median = statistics.median(seconds)
        ratio = median / rows[0]["median"] if rows else 1.0
        row = {"what": what, "yields": yields, "seconds": seconds, "median": median, "ratio": ratio, "peak": max(peaks)}
        rows.append(row)
    verdicts = list(agreement(task, answers))
    size = f"{len(task.images):,} images, {len(task.texts):,} captions, width {dim}, both directions, {repeat} rounds"
    if as_json:
        report = {"size": size, "machine": machine(), "screen": answers[0].screen, "peers": rows, "note": note}
        click.echo(json.dumps(report | {"agreement": verdicts}, indent=2))
    else:
        click.echo(f"{size}\n{machine()}; ours screens in {answers[0].screen}\n")
        click.echo(f"{'what':<38}{'seconds, median (range)':<26}{'to ours':>7}  {'yields':<28}peak over the vectors")
        for row in rows:
            spread = f"{row['median']:.3f} ({min(row['seconds']):.3f} to {max(row['seconds']):.3f})"
            peak = f"{row['peak'] / 2**20:,.0f} MB" if row["peak"] else "not known"
            click.echo(f"{row['what']:<38}{spread:<26}{row['ratio']:>7.2f}  {row['yields']:<28}{peak}")
        click.echo("\n".join(["", note, *(f"{'agrees' if ok else 'DISAGREES'}: {said}" for ok, said in verdicts)]))
    sys.exit(0 if all(ok for ok, _ in verdicts) else 1)


if __name__ == "__main__":
    main()
