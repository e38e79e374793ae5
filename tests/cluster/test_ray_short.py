"""`EmbeddingStore.embed(ray=…)` on two nodes that Ray simulates on this machine: the short form, without root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TESTS, run_command

pytestmark = pytest.mark.cluster

# A program of its own: Ray starts processes and threads, and ends this process's cluster when it exits.
_PROGRAM = """
import json, sys
import ray
from ray.cluster_utils import Cluster
import clipstore
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    cluster.add_node(num_cpus=1)
    store, notes = clipstore.open(sys.argv[1]), set()
    result = store.embed("demo", ray=cluster.address, ray_cpus=1, progress=lambda *state: notes.add(state[3]))
    assert not ray.is_initialized()
    ray.init(cluster.address, log_to_driver=False)
    try:
        store.embed("demo", ray="127.0.0.1:1")
    except clipstore.ClipstoreError as error:
        refusal = str(error)
    assert store.embed("demo", ray=cluster.address)["embedded"][0]["reused"] == 24
    assert ray.is_initialized()  # a connection of the caller's own stays
    print(json.dumps([result["embedded"], sorted(notes), refusal]))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


def test_the_shards_are_those_of_one_process(scenes: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    one, two = tmp_path / "one", tmp_path / "two"
    run_command(one, "ingest", "coco", scenes)
    shutil.copytree(one, two)
    run_command(one, "embed", "--model", "demo")
    environment = os.environ | {
        "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else other work on this machine goes first
    }
    words = [sys.executable, "-c", _PROGRAM, str(two)]
    process = subprocess.run(words, env=environment, check=True, capture_output=True, text=True, timeout=240)
    rows, notes, refusal = json.loads(process.stdout.splitlines()[-1])
    assert [(row["tower"], row["done"], row["failed"]) for row in rows] == [("image", 24, 0), ("text", 120, 0)]
    assert "is connected to the Ray cluster at" in refusal
    assert any("/s" in note for note in notes)
    files = {str(file.relative_to(one)): file.read_bytes() for file in one.rglob("*.h5")}
    assert {str(file.relative_to(two)): file.read_bytes() for file in two.rglob("*.h5")} == files
