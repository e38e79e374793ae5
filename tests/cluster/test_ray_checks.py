"""What is refused before any work: nodes with other versions, other folders or another model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import TESTS, run_command
from ray_nodes import WORKER_ADDRESS, Nodes
from safetensors.numpy import load_file, save_file

import clipstore

pytestmark = pytest.mark.cluster

PACKAGE = Path(clipstore.__file__).parent


@pytest.fixture
def ingested(store: Path, scenes: Path) -> Path:
    run_command(store, "ingest", "coco", scenes)
    return store


@pytest.fixture
def head(ray_nodes: Nodes) -> Iterator[Nodes]:
    """The cluster without its worker node, which each test starts in its own way, and which is killed at the end."""
    ray_nodes.kill_node(1)
    yield ray_nodes
    ray_nodes.kill_node(1)


def refusal(nodes: Nodes, store: Path) -> str:
    """The one line that a refused `embed --ray` prints."""
    process = nodes.embed(store)
    assert process.returncode == 1, process
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert not list(store.rglob("*.h5"))
    assert not [file for file in store.iterdir() if file.name.endswith(".tmp")]
    return line


def test_another_version_of_torch(head: Nodes, ingested: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "other" / "torch-9.9.9.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n")
    head.start_worker_node(PYTHONPATH=f"{tmp_path / 'other'}:{TESTS.parent}:{TESTS}")
    line = refusal(head, ingested)
    assert WORKER_ADDRESS in line
    assert ") has torch 9.9.9, this process torch " in line


def test_other_code_of_clipstore(head: Nodes, ingested: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "other" / "clipstore", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / "clipstore" / "files.py").open("a") as file:
        file.write("# changed\n")
    head.start_worker_node(PYTHONPATH=f"{tmp_path / 'other'}:{TESTS}")
    line = refusal(head, ingested)
    assert WORKER_ADDRESS in line
    assert ") has clipstore 0." in line
    assert "install the same versions on every node" in line


@pytest.mark.parametrize("hidden", ["store", "images"])
def test_a_node_that_does_not_see_a_folder(
    hidden: str, head: Nodes, ingested: Path, scenes: Path, tmp_path: Path
) -> None:
    folder = ingested if hidden == "store" else scenes / "val"
    (tmp_path / "nothing").mkdir()
    head.start_worker_node(mounts={folder: tmp_path / "nothing"})
    line = refusal(head, ingested)
    assert WORKER_ADDRESS in line
    assert f") does not see {folder}" in line
    assert "use a shared file system" in line


def test_a_node_with_another_model(head: Nodes, empty: Path, tmp_path: Path) -> None:
    weights = PACKAGE / "demo" / "model" / "model.safetensors"
    tensors = {name: tensor.copy() for name, tensor in load_file(weights).items()}
    name = next(name for name in tensors if name.startswith("vision_model"))
    tensors[name] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    head.start_worker_node(mounts={weights: tmp_path / "other.safetensors"})
    with head.driver(empty) as driver:
        _, stderr = driver.communicate(timeout=240)
    assert driver.returncode == 1
    (line,) = stderr.splitlines()
    assert WORKER_ADDRESS in line
    assert "failed: the files of demo in " in line
    assert "are not those that were planned" in line


def test_an_error_in_a_worker(two_nodes: Nodes, ingested: Path) -> None:
    with two_nodes.driver(ingested, "fails") as driver:
        _, stderr = driver.communicate(timeout=240)
    assert driver.returncode == 1
    (line,) = stderr.splitlines()
    assert "the worker on " in line
    assert "failed: LookupError: a mistake about" in line
