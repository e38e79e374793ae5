"""`clipstore embed --ray` on two real nodes: lost nodes, stopped and killed workers, a killed driver.

The vectors are those of one process, byte for byte where the plan was not split.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from embed_runs import shard_files
from helpers import catalog_rows
from ray_driver import SHARDS
from ray_nodes import POISON, WORKER_ADDRESS, Nodes

pytestmark = pytest.mark.cluster


def wait_until(driver: subprocess.Popen[str], items: int) -> None:
    """Read what a driver prints until so many images are done, and the worker node has done some of them."""
    assert driver.stdout
    for line in driver.stdout:
        words = line.split()
        if words[:2] == ["done", "images"] and int(words[2]) >= items and WORKER_ADDRESS in line:
            return
    pytest.fail(f"the driver ended: {driver.stderr and driver.stderr.read()}")


def finish(driver: subprocess.Popen[str]) -> tuple[dict[str, dict[str, int]], str]:
    """The summary of each tower, once a driver has ended, and what it printed on stderr."""
    stdout, stderr = driver.communicate(timeout=240)
    assert driver.returncode == 0, stderr
    lines = [line.split() for line in stdout.splitlines() if line.startswith("summary")]
    return {
        line[1]: dict(zip(("planned", "done", "failed"), map(int, line[2:]), strict=True)) for line in lines
    }, stderr


def vectors(store: Path) -> dict[tuple[str, str], Any]:
    """The stored vector of each fingerprint and content, which the catalog has once."""
    import h5py

    with duckdb.connect(str(store / "catalog.duckdb"), read_only=True) as connection:
        rows = connection.sql(
            'SELECT fingerprint, content, file, "row" FROM vectors JOIN shards USING (shard_id, fingerprint)'
        ).fetchall()
    keys = [(fingerprint, content) for fingerprint, content, _, _ in rows]
    assert len(keys) == len(set(keys))
    values = {}
    for file in {row[2] for row in rows}:
        with h5py.File(store / file) as shard:
            values[file] = shard["values"][:]
    return {(fingerprint, content): values[file][row] for fingerprint, content, file, row in rows}


def assert_same_vectors(store: Path, one: Path, *, without: int = 0) -> None:
    """The vectors are those of one process, and the files too, as far as both have files of the same name."""
    got, expected = vectors(store), vectors(one)
    assert got.keys() <= expected.keys()
    assert len(expected) - len(got) == without
    names = [sorted(str(file.relative_to(root)) for file in root.rglob("*.h5")) for root in (store, one)]
    same = set(names[0]) & set(names[1])
    assert len(same) >= 0.9 * len(names[1])
    for name in same:
        assert (store / name).read_bytes() == (one / name).read_bytes(), name
    assert [vector.shape for vector in got.values()] == [expected[key].shape for key in got]
    np.testing.assert_allclose(
        np.concatenate(list(got.values())), np.concatenate([expected[key] for key in got]), atol=1e-5
    )
    assert not [file for file in (store / "shards").rglob("*") if file.name.startswith(".")]


def test_a_stopped_worker_and_an_image_that_kills_its_process(
    two_nodes: Nodes, empty: Path, stores: tuple[Path, Path]
) -> None:
    with two_nodes.driver(empty, "dies_of_one") as driver:
        wait_until(driver, 120)
        (worker,) = two_nodes.workers(1)
        os.kill(worker, signal.SIGSTOP)
        summary, stderr = finish(driver)
    assert "stopped: it has sent nothing for" in stderr
    assert summary["image"]["failed"] == 1
    assert summary["image"]["done"] == summary["image"]["planned"] - 1
    failures = catalog_rows(empty, ["item_failures"])["item_failures"]  # of its vector and its features
    assert len(failures) == 2
    assert {failure["reason"] for failure in failures} == {"the process that encoded it ended unexpectedly, twice"}
    (content,) = {failure["content"] for failure in failures}
    with duckdb.connect(str(empty / "catalog.duckdb"), read_only=True) as connection:
        names = connection.execute("SELECT file_name FROM images WHERE content = ?", [content]).fetchall()
    assert [Path(name).name for (name,) in names] == [POISON]
    assert worker not in two_nodes.processes(1)
    assert_same_vectors(empty, stores[1], without=2)


def test_a_node_that_is_lost(two_nodes: Nodes, empty: Path, stores: tuple[Path, Path]) -> None:
    with two_nodes.driver(empty) as driver:
        wait_until(driver, 180)
        two_nodes.kill_node(1)
        summary, stderr = finish(driver)
    assert summary["image"]["done"] == summary["image"]["planned"]
    assert "Traceback" not in stderr
    assert WORKER_ADDRESS in stderr
    assert_same_vectors(empty, stores[1])


def test_a_killed_driver_resumes(two_nodes: Nodes, empty: Path, stores: tuple[Path, Path]) -> None:
    with two_nodes.driver(empty) as driver:
        wait_until(driver, 400)
        before = shard_files(empty)
        second = two_nodes.embed(empty)
        assert second.returncode == 1
        assert f"embeds into {empty} on a cluster already: wait for it to end" in second.stderr
    with two_nodes.driver(empty) as driver:
        summary, _ = finish(driver)
    items = len(catalog_rows(empty, ["images"])["images"])
    after = shard_files(empty)
    complete = {name: state for name, state in before.items() if re.fullmatch(r"[^.].*\.h5", Path(name).name)}
    assert len(complete) >= 4
    assert complete.items() <= after.items()  # not written again
    in_flight = 2 * 2 * SHARDS["image"]  # two plans of each of two workers
    assert summary["image"]["planned"] <= items - 400 + in_flight
    assert_same_vectors(empty, stores[1])


def test_an_interrupted_driver_ends_its_workers(two_nodes: Nodes, empty: Path) -> None:
    with two_nodes.driver(empty) as driver:
        wait_until(driver, 60)
        driver.send_signal(signal.SIGINT)
        _, stderr = driver.communicate(timeout=120)
    assert driver.returncode == 130
    assert stderr == "clipstore: interrupted; completed work is saved, run the same command to resume\n"
    two_nodes.wait_for_no_workers()
    assert not [file for file in (empty / "shards").rglob("*") if file.name.startswith(".")]
