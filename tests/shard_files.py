"""Small shards with random vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.shards import Shard, ShardInfo, normalize, write_shard

INFO = ShardInfo(
    kind="vectors",
    tower="text",
    fingerprint="f" * 64,
    model="tuned ünï",
    family="clip",
    precision="fp32",
    normalised=True,
    cut=3,
    software='{"clipstore": "0.1.0"}',
)
FAILED = {"e" * 64: "the caption is empty", "d" * 64: "Überlänge — 画像"}


def content_keys(count: int) -> list[str]:
    """Keys of so many items."""
    return [f"{n:064x}" for n in range(count)]


def random_vectors(rows: int = 20, dim: int = 8, dtype: str = "float32", seed: int = 0) -> NDArray[Any]:
    """Vectors of unit length in random directions, (rows, dim)."""
    return normalize(np.random.default_rng(seed).normal(size=(rows, dim)), dtype)


def write_vectors(path: Path, values: NDArray[Any], failures: dict[str, str] = FAILED) -> Shard:
    """Write a shard of these vectors."""
    return write_shard(path, INFO, values, content_keys(len(values)), failures)
