"""A Ray cluster of two real nodes, each in a network namespace of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from ray_nodes import Nodes


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
