"""Prepared workspaces, one for each state of a store, and what a store contains.

A workspace is the folder in which commands run: jobs/tuned.toml and store/, whose images are in a shared folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb

from clipstore.demo.scenes import draw_dataset
from torture.processes import Result, run

State = Literal["empty", "ingested", "embedded", "evaluated", "trained"]

_JOB = """
[model]
base = "bundled:demo"
[train]
split = "t/train"
validation = "t/val"
precision = "fp32"
batch = 16
chunk = 8
epochs = 2
learning_rate = 1e-3
save_steps = 2
heads = true
[eval]
splits = ["t/val"]
"""

EMBED = ("embed", "--model", "demo")
EVAL = ("eval", "--model", "demo", "--split", "t/val")
TRAIN = ("train", "--model", "tuned")

# Columns that differ between two runs of the same commands, and files that contain them. An interrupted run may compare
# another sample of its vectors with fp32 than one that is not interrupted: `items`, `least_cosine`.
_VOLATILE = {"seconds", "peak_memory", "evaluated_at", "files_key", "software"}
_SAMPLED = {"items", "least_cosine"}
_RANDOM_ID = re.compile(rb'"id":"[0-9a-f]{32}"')  # of each store
_TIMED = {"fingerprints.json", "state.pt", "training.json", "metrics.csv", "SHA256SUMS"}


class Task(NamedTuple):
    """A command, and the state of the store in which it has something to do."""

    state: State
    words: tuple[object, ...]


class Workspaces:
    """A workspace for each State, below one folder.

    Attributes:
        images: the folder of the dataset, split all: 24 synthetic scenes.
        ingest: the command that ingests it.
        tasks: the commands that ingest, embed, evaluate and train.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._copies = 0
        self._results: dict[Task, dict[str, Any]] = {}
        self.images = root / "scenes"
        draw_dataset(self.images, images=24, seed=7, split="all")
        (root / "empty" / "jobs").mkdir(parents=True)
        (root / "empty" / "jobs" / "tuned.toml").write_text(_JOB, encoding="utf-8")
        self.ingest = Task("empty", ("ingest", "coco", self.images, "--name", "s"))
        self.tasks = (self.ingest, Task("ingested", EMBED), Task("embedded", EVAL), Task("embedded", TRAIN))
        split = ("split", "t", "--from", "s/all", "--validation", "0.25")
        # The state before, and the commands that lead from it.
        self._steps: dict[State, tuple[State, tuple[tuple[object, ...], ...]]] = {
            "ingested": ("empty", (self.ingest.words, split)),
            "embedded": ("ingested", (EMBED,)),
            "evaluated": ("embedded", (EVAL,)),
            "trained": ("evaluated", (("run", "tuned"),)),
        }

    def copy(self, state: State) -> Path:
        """Returns a new copy of a workspace."""
        self._copies += 1
        return Path(shutil.copytree(self._workspace(state), self._root / f"copy-{self._copies}"))

    def result(self, task: Task) -> dict[str, Any]:
        """The `content` of a store after a task that nothing disturbed."""
        if task not in self._results:
            workspace = self.copy(task.state)
            _must(run(workspace, *task.words), task.words)
            self._results[task] = content(workspace)
        return self._results[task]

    def _workspace(self, state: State) -> Path:
        """The workspace of a state, made when it is first needed."""
        workspace = self._root / state
        if not workspace.exists():
            before, commands = self._steps[state]
            shutil.copytree(self._workspace(before), workspace)
            for words in commands:
                _must(run(workspace, *words), words)
        return workspace


def content(workspace: Path) -> dict[str, Any]:
    """What a store contains, as far as two runs of the same commands agree: tables, shards, weights, names of files."""
    store = workspace / "store"
    files = sorted(path for path in store.rglob("*") if path.is_file() and not _is_left_out(path.name))
    contents: dict[str, Any] = {"files": [str(path.relative_to(store)) for path in files]}
    for path in files:
        if path.name not in _TIMED:
            data = path.read_bytes().replace(str(workspace).encode(), b"")
            data = _RANDOM_ID.sub(b"", data) if path == store / "store.json" else data
            contents[str(path.relative_to(store))] = hashlib.sha256(data).hexdigest()
    return contents | _tables(workspace)


def differences(expected: dict[str, Any], actual: dict[str, Any]) -> list[str]:
    """The tables and files that differ."""
    return sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))


def _is_left_out(name: str) -> bool:
    """Whether a file is the catalog, whose tables are compared, a former catalog that a rebuild keeps, or a lock, which
    remains when it is released.
    """
    return name.startswith("catalog.duckdb") or (name.startswith(".") and name.endswith(".lock"))


def _tables(workspace: Path) -> dict[str, Any]:
    """The rows of each table, with the file of a shard in place of its id, which follows the order of registration."""
    with duckdb.connect(str(workspace / "store" / "catalog.duckdb"), read_only=True) as connection:
        files = dict(connection.sql("SELECT shard_id, file FROM shards").fetchall())
        tables = {}
        for (name,) in connection.sql("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall():
            rows = connection.sql(f"FROM {name}").to_arrow_table().to_pylist()
            for row in rows:
                if "shard_id" in row:
                    row["shard_id"] = files[row["shard_id"]]
            left_out = _VOLATILE | _SAMPLED if name == "precision_checks" else _VOLATILE
            stable = [
                sorted((key, str(row[key]).replace(str(workspace), "")) for key in row.keys() - left_out)
                for row in rows
            ]
            tables[name] = sorted(set(map(tuple, stable)) if name == "precision_checks" else map(tuple, stable))
    return tables


def _must(result: Result, words: tuple[object, ...]) -> None:
    if result.code:
        message = f"{words}: {result.stderr}"
        raise RuntimeError(message)
