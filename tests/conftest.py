"""Shared fixtures: real data, synthetic scenes, stores, and the command line."""

from __future__ import annotations

import gc
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from click.testing import Result
from helpers import SHORT_EXAMPLES, Trained, environment, import_vectors, run_command, write_job
from hypothesis import settings

from clipstore.demo.scenes import draw_dataset

if TYPE_CHECKING:
    from object_server import ObjectServer

ROOT = Path(__file__).parent.parent

# The time of one example depends on the load of the machine, so there is no deadline. `make test-all` chooses `full`.
settings.register_profile("short", deadline=None, max_examples=SHORT_EXAMPLES)
settings.register_profile("full", deadline=None)
settings.load_profile("short")

Run = Callable[..., Result]
Rows = list[dict[str, Any]]


def pytest_configure(config: pytest.Config) -> None:
    """With pytest-xdist's -n, use one thread per worker: more would oversubscribe the cores.

    Workers inherit the environment of this process. Tests of threads set their own number.
    """
    if config.getoption("numprocesses", default=None):
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
        # Commits wait for the disk: a file system in memory is faster.
        memory = Path("/dev/shm")
        if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * 2**30:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
        # Test names must be equal in all workers, also if they depend on the order of a set.
        os.environ.setdefault("PYTHONHASHSEED", str(secrets.randbelow(2**32)))


def pytest_collection_finish() -> None:
    """Exclude imported modules from garbage collection: each full collection would take a third of a second."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Undo `gc.freeze`, so that the interpreter collects all objects at exit."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data: $CLIPSTORE_TEST_DATA, by default next to the checkout."""
    folder = Path(os.environ.get("CLIPSTORE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set CLIPSTORE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of synthetic scenes: split val, 24 images, 120 captions, instances. Copy it before changing it."""
    root = tmp_path_factory.mktemp("scenes")
    draw_dataset(root, images=24, seed=5, split="val")
    return root


@pytest.fixture(scope="session")
def training_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 24 synthetic scenes, t/train (18 images, 90 captions) and t/val (6). Copy it before changing it."""
    root = tmp_path_factory.mktemp("train")
    draw_dataset(root / "scenes", images=24, seed=7, split="all")
    run_command(root / "store", "ingest", "coco", root / "scenes", "--name", "s")
    run_command(root / "store", "split", "t", "--from", "s/all", "--validation", "0.25")
    run_command(root / "store", "embed", "--model", "demo")
    return root / "store"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training_store: Path, store: Path) -> Path:
    """An empty working folder for job files; the test's store is a copy of `training_store`."""
    (tmp_path / "workspace" / "jobs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "workspace")
    shutil.copytree(training_store, store)
    return tmp_path / "workspace"


@pytest.fixture(scope="session")
def trained_store(training_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`training_store` after training the job `tuned` with the settings of QUICK. Copy it before changing it."""
    root = tmp_path_factory.mktemp("trained")
    (root / "jobs").mkdir()
    shutil.copytree(training_store, root / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_job("tuned")
        result = run_command(root / "store", "train", "--model", "tuned", "--json")
    return Trained(root / "store", json.loads(result.stdout))


@pytest.fixture
def trained(workspace: Path, trained_store: Trained, store: Path) -> Trained:
    """`workspace` with the job `tuned`; the test's store is a copy of `trained_store`."""
    shutil.rmtree(store)
    shutil.copytree(trained_store.store, store)
    write_job("tuned")
    return trained_store._replace(store=store)


@pytest.fixture(scope="session")
def _object_server() -> Iterator[ObjectServer]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    from object_server import object_server

    with object_server() as server:
        yield server


@pytest.fixture
def objects(_object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """An S3 server with an empty bucket, which this test and its processes use, with an empty cache."""
    _object_server.clear()
    for name, value in _object_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLIPSTORE_CACHE", str(tmp_path / "cache"))
    return _object_server


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of this test's store; it does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def cli(store: Path) -> Run:
    """Run a clipstore command on this test's store; asserts its exit code and that an error is one line."""

    def run(*words: object, code: int = 0) -> Result:
        result = run_command(store, *words, code=code)
        if code == 1:
            lines = [line for line in result.stderr.strip().splitlines() if ": epoch " not in line]  # train's progress
            assert len(lines) == 1, result.stderr
        return result

    return run


@pytest.fixture
def cli_json(cli: Run) -> Callable[..., Any]:
    """Run a clipstore command with --json; returns the parsed output."""
    return lambda *words: json.loads(cli(*words, "--json").stdout)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub-like CLIP folder with OpenAI's tokenizer and few weights. Copy it before changing it."""
    from clip_folder import build_clip  # not above: tests without a model start without torch and PEFT

    return build_clip(tmp_path_factory.mktemp("clip") / "small", small=True)


@pytest.fixture(scope="session")
def full_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub-like ViT-B/32 of full size with random weights."""
    from clip_folder import build_clip

    return build_clip(tmp_path_factory.mktemp("clip") / "full", small=False)


@pytest.fixture
def sql(cli_json: Callable[..., Any]) -> Callable[[str], Rows]:
    """Run a SQL statement on this test's store; returns its rows."""
    return lambda statement: cli_json("sql", statement)


@pytest.fixture(name="import_vectors")
def _import_vectors(store: Path) -> Run:
    """`helpers.import_vectors` for this test's store."""
    return partial(import_vectors, store)


# On Linux a child's peak memory includes that of the process it was forked from, so a small process starts it.
_MEASURE = """
import json, os, subprocess, sys, time
command = [sys.executable, "-c", "from clipstore.cli import main; main()", *sys.argv[2:]]
with open(sys.argv[1], "w") as out:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=out)
    _, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - began, usage.ru_maxrss]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Timed(NamedTuple):
    """The time, peak memory and output of a process."""

    seconds: float
    peak_bytes: int
    stdout: str


@pytest.fixture
def timed(store: Path, tmp_path: Path) -> Callable[..., Timed]:
    """Run a clipstore command as a process on this test's store; returns its duration, peak memory and output."""

    def run(*words: object) -> Timed:
        command = [sys.executable, "-c", _MEASURE, str(tmp_path / "stdout"), *map(str, words)]
        measured = subprocess.run(command, env=environment(store), stdout=subprocess.PIPE, text=True, check=False)
        assert measured.returncode == 0, words
        seconds, peak = json.loads(measured.stdout)
        print(f"{seconds:.2f} s, peak {peak / 1024:.0f} MB: {words}")  # pytest -rP shows it
        out = (tmp_path / "stdout").read_text()
        return Timed(seconds, peak * (1 if sys.platform == "darwin" else 1024), out)

    return run
