"""The time of ranking on one and on two Ray workers with one core each, and in one process with one thread.

    OMP_NUM_THREADS=1 python tests/bench/ranking_workers.py --images 40504 --captions 202654

It starts a Ray cluster of two nodes with one CPU each on this machine. Every repetition ranks the same shards in each
way, one after another, with new workers; each process compares the shards with their checksums. The results must be
equal bit for bit. Use an idle machine with two cores.

"ratio" is the time of two workers divided by that of one. "cpu_ratio" is the same of the CPU seconds on the critical
path (this process, then the busiest worker), which other work on the machine lengthens less. "start" is the time until
all workers have started, which is not in the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from clipstore import shards
from clipstore.bench.evaluate import BenchOptions, _problem
from clipstore.cluster import Node, connect
from clipstore.pipeline.evaluate.options import TOP_K
from clipstore.pipeline.evaluate.worker_pool import WorkerPool
from clipstore.pipeline.evaluate.workers import RankWorker, rank_on_workers
from clipstore.ranking import Ranks, RankSettings, rank_pairs, score_targets

SETTINGS = RankSettings(top_k=TOP_K, memory=4 * 2**30)
Seconds = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40_504)
    parser.add_argument("--captions", type=int, default=202_654)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default is 15, which gives way to everything else
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="clipstore-ranking-workers-") as folder:
        problem = _problem(Path(folder), BenchOptions(images=options.images, captions=options.captions))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        try:
            runs = [measure(cluster.address, problem) for _ in range(options.repeat)]
        finally:
            cluster.shutdown()
    medians = {key: round(median(run[key] for run in runs), 3) for key in runs[0]}
    print(json.dumps(medians | {"ratios": [round(run["ratio"], 3) for run in runs]} | vars(options), indent=1))


def measure(address: str, problem: Any) -> Seconds:
    """Seconds of each way, and of its parts."""
    shards.clear_checks()
    start = time.perf_counter()
    expected = rank_pairs(problem.images, problem.texts, problem.pairs, **vars(SETTINGS))
    seconds = {"one_process": time.perf_counter() - start}
    start = time.perf_counter()
    score_targets(problem.images, problem.texts, problem.pairs, SETTINGS)
    seconds["scoring_of_pairs"] = time.perf_counter() - start
    with connect(address) as nodes:
        for name, count in (("one_worker", 1), ("two_workers", 2)):
            times, ranks = rank_on(nodes[:count], problem)
            seconds |= {f"{name}{suffix}": value for suffix, value in times.items()}
            check_equal(ranks, expected)
    seconds["ratio"] = seconds["two_workers"] / seconds["one_worker"]
    busy = [seconds[f"{name}_driver_cpu"] + seconds[f"{name}_worker_cpu"] for name in ("one_worker", "two_workers")]
    seconds["cpu_ratio"] = busy[1] / busy[0]
    seconds["load"] = float(Path("/proc/loadavg").read_text().split()[0])
    print(seconds, file=sys.stderr, flush=True)
    return seconds


def rank_on(nodes: Sequence[Node], problem: Any) -> tuple[Seconds, Ranks]:
    """Rank on a new worker of each node."""
    shards.clear_checks()
    start = time.perf_counter()
    pool = WorkerPool(RankWorker, nodes, 1)
    pool._ray.wait(list(pool._starting), num_returns=len(nodes))
    started, cpu = time.perf_counter(), time.process_time()
    workers = [pool._ray.get(reference) for reference in pool._starting]
    before = [cpu_seconds(worker) for worker in workers]
    ranks = rank_on_workers(pool, problem.images, problem.texts, problem.pairs, SETTINGS, lambda *_: None)
    times = {
        "": time.perf_counter() - started,
        "_start": started - start,
        "_driver_cpu": time.process_time() - cpu,
        "_worker_cpu": max(cpu_seconds(worker) - used for worker, used in zip(workers, before, strict=True)),
    }
    pool.stop()
    return times, ranks


def cpu_seconds(process: int) -> float:
    """The CPU time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check_equal(ranks: Ranks, expected: Ranks) -> None:
    """Every array is equal bit for bit."""
    for direction in ("image_to_text", "text_to_image"):
        for field, values in vars(getattr(expected, direction)).items():
            other = vars(getattr(ranks, direction))[field]
            assert np.array_equal(values.view(np.int64), other.view(np.int64)), (direction, field)


if __name__ == "__main__":
    main()
