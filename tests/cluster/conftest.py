"""A Ray cluster of two real nodes, each in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import TESTS, run_command
from ray_nodes import Nodes

from clipstore.demo.scenes import draw_dataset

IMAGES = 1000


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Nodes]:
    """A head and a worker node with one CPU each. Needs root, and `ip` of iproute2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command 'ip'")
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with Nodes() as nodes:
        yield nodes


@pytest.fixture
def two_nodes(ray_nodes: Nodes) -> Nodes:
    """The cluster with both of its nodes alive."""
    ray_nodes.start_worker_node()
    return ray_nodes


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> tuple[Path, Path]:
    """A store of coco-mini and 1,000 drawn scenes without vectors, and a copy that one process has embedded."""
    root = tmp_path_factory.mktemp("stores")
    draw_dataset(root / "scenes", images=IMAGES, seed=5, split="val")
    run_command(root / "empty", "ingest", "coco", test_data / "coco-mini", "--name", "mini")
    run_command(root / "empty", "ingest", "coco", root / "scenes", "--name", "scenes")
    shutil.copytree(root / "empty", root / "one")
    program = [sys.executable, "-m", "ray_driver", str(root / "one"), "", ""]
    subprocess.run(program, cwd=TESTS, check=True, capture_output=True)
    return root / "empty", root / "one"


@pytest.fixture
def empty(stores: tuple[Path, Path], store: Path) -> Path:
    """A store of its own without vectors."""
    shutil.copytree(stores[0], store)
    return store
