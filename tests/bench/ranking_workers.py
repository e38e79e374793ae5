"""The time of ranking on one and on two Ray workers with one core each, and in one process with one thread.

    OMP_NUM_THREADS=1 python tests/bench/ranking_workers.py --images 40504 --captions 202654

Every repetition ranks the same shards in each way, one after another, from new processes: shards are compared with
their checksums. The results must be equal bit for bit. It starts a Ray cluster of two nodes with one CPU each on this
machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from clipstore import shards
from clipstore.bench.evaluate import BenchOptions, _problem
from clipstore.cluster import connect
from clipstore.pipeline.evaluate.options import TOP_K
from clipstore.pipeline.evaluate.worker_pool import WorkerPool
from clipstore.pipeline.evaluate.workers import RankWorker, rank_on_workers
from clipstore.ranking import Merge, Ranks, RankSettings, rank_pairs, score_targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40_504)
    parser.add_argument("--captions", type=int, default=202_654)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = RankSettings(top_k=TOP_K, memory=4 * 2**30)
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="clipstore-ranking-workers-") as folder:
        problem = _problem(Path(folder), BenchOptions(images=options.images, captions=options.captions))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        try:
            runs = [measure(cluster.address, problem, settings) for _ in range(options.repeat)]
        finally:
            cluster.shutdown()
    result: dict[str, Any] = {key: round(median(run[key] for run in runs), 3) for key in runs[0]}
    result["ratio_of_each_run"] = [round(run["two_workers"] / run["one_worker"], 3) for run in runs]
    print(json.dumps(result | vars(options), indent=1))


def measure(address: str, problem: Any, settings: RankSettings) -> dict[str, float]:
    """Seconds of each way, and of its parts."""
    seconds: dict[str, float] = {}
    results: dict[str, Ranks] = {}
    shards.clear_checks()
    start = time.perf_counter()
    results["one_process"] = rank_pairs(problem.images, problem.texts, problem.pairs, **vars(settings))
    seconds["one_process"] = time.perf_counter() - start
    with connect(address) as nodes:
        for name, count in (("one_worker", 1), ("two_workers", 2)):
            start = time.perf_counter()
            pool = WorkerPool(RankWorker, nodes[:count], 1)
            ready = list(pool._starting)
            pool._ray.wait(ready, num_returns=len(ready))
            seconds[f"{name}_start"] = time.perf_counter() - start
            shards.clear_checks()
            merging = Stopwatch(Merge.add)
            Merge.add = merging  # type: ignore[method-assign]
            start = time.perf_counter()
            ranks = rank_on_workers(
                pool,
                problem.images,
                problem.texts,
                problem.pairs,
                settings,
                lambda *progress: print(*progress, file=sys.stderr),
            )
            seconds[name] = time.perf_counter() - start
            Merge.add = merging.function  # type: ignore[method-assign]
            seconds[f"{name}_merging"] = merging.seconds
            results[name] = ranks
            pool.stop()
    shards.clear_checks()
    start = time.perf_counter()
    score_targets(problem.images, problem.texts, problem.pairs, settings)
    seconds["scoring_of_pairs"] = time.perf_counter() - start
    seconds["ratio"] = seconds["two_workers"] / seconds["one_worker"]
    seconds["ratio_to_one_process"] = seconds["two_workers"] / seconds["one_process"]
    check_equal(results)
    print(seconds, Path("/proc/loadavg").read_text().split()[:3], file=sys.stderr, flush=True)
    return seconds


class Stopwatch:
    """A method that adds up its duration."""

    def __init__(self, function: Any) -> None:
        self.function, self.seconds = function, 0.0

    def __get__(self, instance: Any, owner: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return self.function(instance, *arguments)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


def check_equal(results: dict[str, Ranks]) -> None:
    """Every array is equal bit for bit."""
    expected = results["one_process"]
    for name, ranks in results.items():
        for direction in ("image_to_text", "text_to_image"):
            for field, values in vars(getattr(expected, direction)).items():
                other = vars(getattr(ranks, direction))[field]
                assert np.array_equal(values.view(np.int64), other.view(np.int64)), (name, direction, field)


if __name__ == "__main__":
    main()
