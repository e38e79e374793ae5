"""Compare ranking with its peers: equal synthetic vectors, one process, alternating runs; and whether results agree.

    pip install --constraint constraints.txt '.[bench]'
    python tests/bench/peers_eval.py
    python tests/bench/peers_eval.py --images 500 --captions 2500 --repeat 3 --json

Every peer runs once without a measurement (numba compiles; these results are compared), then once in each round.
CLIP_benchmark is its function `evaluate` with its default batch size of 64 and a model that returns the vectors. It is
imported from its wheel, which pip downloads, since an installation requires torchvision. It is skipped, with a note, if
its scores and masks do not fit into the free memory. Peaks are the growth of the process during a run; Linux only. The
exit code is 1 if results disagree.
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
    """Images (N, D) and texts (M, D) in float32; text j belongs to image `image_of[j]`, which does not decrease."""

    images: torch.Tensor
    texts: torch.Tensor
    image_of: torch.Tensor


def clipstore_ranks(task: Task) -> Ranks:
    pairs = torch.stack([task.image_of, torch.arange(len(task.image_of))], dim=1).numpy()
    return rank_pairs(task.images.numpy(), task.texts.numpy(), pairs, top_k=TOP)


def faiss_search(task: Task) -> list[NDArray[np.int64]]:
    hits = []
    for queries, candidates in ((task.images, task.texts), (task.texts, task.images)):
        index = faiss.IndexFlatIP(candidates.shape[1])
        index.add(candidates.numpy())
        hits.append(index.search(queries.numpy(), TOP)[1])
    return hits


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
    """The number of candidates above each pair: among all texts, and among all images."""
    parts = zip(task.image_of.split(BLOCK[1]), task.texts.split(BLOCK[1]), strict=True)
    target = torch.cat([(task.images[image_of] * texts).sum(dim=1) for image_of, texts in parts])
    layer = torch.arange(len(task.image_of)) - torch.searchsorted(
        task.image_of, task.image_of
    )  # the number of the text among those of its image
    targets = torch.full((int(layer.max()) + 1, len(task.images)), torch.nan)
    targets[layer, task.image_of] = target
    by_image, by_text = torch.zeros(targets.shape, dtype=torch.int64), torch.zeros(len(target), dtype=torch.int64)
    for rows, columns, scores in products(task):
        for counts, scored in zip(by_image, targets, strict=True):
            counts[rows] += (scores > scored[rows, None]).sum(dim=1)
        by_text[columns] += (scores > target[columns]).sum(dim=0)
        image_of = task.image_of[columns]
        pairs = torch.nonzero((image_of >= rows.start) & (image_of < rows.stop)).squeeze(1)  # not above themselves
        above = (scores[image_of[pairs] - rows.start, pairs] > target[columns][pairs]).long()
        by_image[layer[columns][pairs], image_of[pairs]] -= above
        by_text[columns.start + pairs] -= above
    return by_image[layer, task.image_of], by_text


def clip_benchmark_need(task: Task) -> int:
    """Bytes: fp32 scores and a bool mask, N x M; a batch's one-hot of 10 and its product, int64; vectors, twice."""
    (images, width), texts = task.images.shape, len(task.texts)
    return images * texts * 5 + BATCH * TOP * max(images, texts) * 16 + (images + texts) * width * 8


def clip_benchmark(task: Task, module: Any) -> list[list[float]]:
    first = torch.searchsorted(task.image_of, torch.arange(len(task.images) + 1)).tolist()
    captions = list(starmap(range, pairwise(first)))
    batches = [(part, captions[at * BATCH : (at + 1) * BATCH]) for at, part in enumerate(task.images.split(BATCH))]
    model = SimpleNamespace(encode_image=lambda rows: rows, encode_text=lambda rows: rows)
    recalls = module.evaluate(model, batches, lambda rows: task.texts[rows], "cpu", amp=False, recall_k_list=RECALLS)
    return [[recalls[f"{kind}_retrieval_recall@{k}"] for k in RECALLS] for kind in ("text", "image")]


def load_clip_benchmark() -> Any:
    """CLIP_benchmark's module of retrieval metrics, imported from the wheel; it needs only torch and tqdm."""
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
    """Seconds of a run, and the peak growth of the process in bytes; 0 if the system does not report it."""
    status, linux = Path("/proc/self/status"), sys.platform == "linux"
    if linux:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    highest = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if linux else None
    return seconds, int(highest[1]) * 1024 - before if highest else 0


def compare_hits(
    ranks: DirectionRanks, hits: NDArray[np.int64], queries: torch.Tensor, others: torch.Tensor
) -> Verdict:
    """Another hit at a place is due to fp32 if its score is equal within the error of fp32."""
    rows, places = np.nonzero(hits != ranks.hits)
    cells = zip(queries[rows].double(), others[hits[rows, places]].double(), strict=True)
    scores = np.array([float(query @ candidate) for query, candidate in cells])
    gap = np.abs(scores - ranks.hit_scores[rows, places]).max(initial=0)
    text = f"{1 - len(rows) / hits.size:.4%} of {hits.size:,} hits equal, the scores of the others within {gap:.1e}"
    return bool(gap <= 2 * queries.shape[1] * 2.0**-24), text


def compare_counts(ranks: DirectionRanks, counts: torch.Tensor) -> Verdict:
    off = np.abs(counts.numpy() - ranks.n_greater)
    return bool(off.mean() < 0.1), f"{np.mean(off == 0):.4%} of {len(off):,} counts equal, off by at most {off.max()}"


def compare_recall(ranks: DirectionRanks, recalls: list[float]) -> Verdict:
    """Recall lies between ours with all ties against and for the query; one query in 1,000 may differ by fp32."""
    queries = int(ranks.query.max()) + 1
    best = np.full((2, queries, 1), np.iinfo(np.int64).max)
    np.minimum.at(best[0, :, 0], ranks.query, ranks.n_greater + ranks.n_equal)
    np.minimum.at(best[1, :, 0], ranks.query, ranks.n_greater)
    low, high = (best < np.array(RECALLS)).mean(axis=1)
    outside = (np.maximum(low - recalls, recalls - high).clip(min=0) * queries).max()
    text = ", ".join(f"{r:.5f} in [{a:.5f}, {b:.5f}]" for r, a, b in zip(recalls, low, high, strict=True))
    return bool(outside <= max(1, queries / 1000)), f"Recall@1/5/10 in ours by ties: {text}"


def agreement(task: Task, results: list[Any]) -> Iterator[Verdict]:
    """Compare the peers' results, in the order of the table, with ours."""
    ranks, hits, counts, _, *recall = results
    for at, direction in enumerate(("image -> text", "text -> image")):
        ours = (ranks.image_to_text, ranks.text_to_image)[at]
        verdicts = {"faiss": compare_hits(ours, hits[at], task[at], task[1 - at])}
        verdicts["torch"] = compare_counts(ours, counts[at])
        if recall:
            verdicts["CLIP_benchmark"] = compare_recall(ours, recall[0][at])
        yield from ((ok, f"{peer}, {direction}: {text}") for peer, (ok, text) in verdicts.items())


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
@click.option("--repeat", default=5, show_default=True, type=click.IntRange(min=1), help="Number of measured rounds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(images: int, captions: int, dim: int, repeat: int, as_json: bool) -> None:
    """Compare clipstore's ranking with faiss, torch and CLIP_benchmark on synthetic vectors."""
    vectors = SyntheticVectors(images=images, captions=max(captions, images), dim=dim)
    sides = [
        torch.from_numpy(np.concatenate(list(side))) for side in (vectors.image_blocks(), vectors.caption_blocks())
    ]
    task = Task(*sides, torch.from_numpy(vectors.image_of(np.arange(len(sides[1])))))
    faiss.omp_set_num_threads(torch.get_num_threads())
    peers: dict[str, tuple[str, Callable[[], Any]]] = {
        "clipstore rank_pairs": (f"all ranks and top {TOP}, exact", lambda: clipstore_ranks(task)),
        "faiss IndexFlatIP, with indexing": (f"top {TOP}", lambda: faiss_search(task)),
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

    results = [run() for _, run in peers.values()]
    rounds = [[measure(run) for _, run in peers.values()] for _ in range(repeat)]
    rows: list[dict[str, Any]] = []
    for (name, (output, _)), runs in zip(peers.items(), zip(*rounds, strict=True), strict=True):
        seconds, peaks = zip(*runs, strict=True)
        median = statistics.median(seconds)
        ratio = median / rows[0]["median"] if rows else 1.0
        row = {"name": name, "output": output, "seconds": seconds, "median": median, "ratio": ratio, "peak": max(peaks)}
        rows.append(row)
    verdicts = list(agreement(task, results))
    size = f"{len(task.images):,} images, {len(task.texts):,} captions, width {dim}, both directions, {repeat} rounds"
    if as_json:
        report = {"size": size, "machine": machine(), "screen": results[0].screen, "peers": rows, "note": note}
        click.echo(json.dumps(report | {"agreement": verdicts}, indent=2))
    else:
        click.echo(f"{size}\n{machine()}; ours screens in {results[0].screen}\n")
        click.echo(f"{'name':<38}{'seconds, median (range)':<26}{'to ours':>7}  {'output':<28}peak over the vectors")
        for row in rows:
            spread = f"{row['median']:.3f} ({min(row['seconds']):.3f} to {max(row['seconds']):.3f})"
            peak = f"{row['peak'] / 2**20:,.0f} MB" if row["peak"] else "unknown"
            click.echo(f"{row['name']:<38}{spread:<26}{row['ratio']:>7.2f}  {row['output']:<28}{peak}")
        click.echo("\n".join(["", note, *(f"{'agrees' if ok else 'DISAGREES'}: {text}" for ok, text in verdicts)]))
    sys.exit(0 if all(ok for ok, _ in verdicts) else 1)


if __name__ == "__main__":
    main()
