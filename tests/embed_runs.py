"""Helpers of the tests of `clipstore embed`: runs, the counts of their summaries, and the shard files of a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def embed_towers(cli_json: Callable[..., Any], *words: object, model: str = "demo") -> dict[str, dict[str, Any]]:
    """Run `clipstore embed`, also where items fail; the summary of each tower."""
    rows = cli_json("embed", "--model", model, "--allow-failures", 10**6, *words)["embedded"]
    return {row["tower"]: row for row in rows}


def item_counts(summary: dict[str, Any]) -> dict[str, int]:
    """The counts of items in a summary."""
    return {key: summary[key] for key in ("planned", "done", "reused", "failed", "missing")}


def all_embedded(items: int) -> dict[str, int]:
    """The counts of a tower whose items were all embedded."""
    return {"planned": items, "done": items, "reused": 0, "failed": 0, "missing": 0}


def all_reused(items: int) -> dict[str, int]:
    """The counts of a tower whose items all had vectors."""
    return {"planned": 0, "done": 0, "reused": items, "failed": 0, "missing": 0}


def shard_files(store: Path) -> dict[str, tuple[int, int]]:
    """Every file below shards/, with its inode and modification time, which change when it is written again."""
    files = [path for path in (store / "shards").rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
