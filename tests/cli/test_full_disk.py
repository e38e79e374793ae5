"""A full disk is one line that names the folder, and leaves no partial file. A limit on file sizes stands for it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TESTS, environment, run_command, stored_vectors

from clipstore.errors import os_error_message
from clipstore.files import named_error, whole_file

Run = Callable[..., Any]

LIMIT = 256  # bytes of a file


@contextmanager
def limited_files(limit: int = LIMIT) -> Iterator[None]:
    """Within the block, this process can write no file beyond this size; Python ignores the signal that says so."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def evaluated(training_store: Path) -> Path:
    """A store with an evaluation. Nothing in it is changed here."""
    run_command(training_store, "eval", "--model", "demo", "--split", "t/val")
    return training_store


COMMANDS = {
    "vectors": ("export", "vectors", "--model", "demo", "--split", "t/val", "out/v"),
    "csv": ("export", "csv", "out"),
    "merged": ("export", "model", "demo", "out/m", "--merged"),
    "md": ("report", "--format", "md", "--split", "t/val", "--out", "out/r.md"),
    "html": ("report", "--split", "t/val", "--map", "none", "--out", "out/r.html"),
    "plots": ("stats", "--split", "t/val", "--plots", "out/p.html"),
    "panel": ("retrieve", "red", "--model", "demo", "--split", "t/val", "--panel", "out/p.png"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_file_that_cannot_be_written_leaves_nothing(
    words: tuple[str, ...], evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    with limited_files():
        error = run_command(evaluated, *words, code=1).stderr
    assert len(error.splitlines()) == 1
    assert "out/" in error
    assert "ulimit -f" in error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_shards_that_cannot_be_written_leave_nothing(workspace: Path, store: Path, cli: Run) -> None:
    folders = sorted((store / "shards").iterdir())
    for folder in folders:
        for shard in folder.iterdir():
            shard.unlink()
    with limited_files(32 * LIMIT):  # the catalog is larger already, and not written before the shards
        error = cli("embed", "--model", "demo", code=1).stderr
    assert str(store) in error
    assert not list((store / "shards").rglob(".*"))
    cli("embed", "--model", "demo")
    assert stored_vectors(store, "images", split="t/val").shape[0] == 6


def test_an_exported_array_is_that_of_the_store(evaluated: Path, tmp_path: Path) -> None:
    run_command(evaluated, "export", "vectors", "--model", "demo", "--split", "t/val", tmp_path / "v")
    exported = np.load(tmp_path / "v/text_emb/text_emb_0.npy", mmap_mode="r")
    np.testing.assert_array_equal(exported, stored_vectors(evaluated, "captions", split="t/val"))


def test_an_export_repeats_itself_and_refuses_other_files(evaluated: Path, tmp_path: Path) -> None:
    """An interrupted export may have written some of its files."""
    run_command(evaluated, "export", "csv", tmp_path)
    files = sorted(tmp_path.iterdir())
    files[0].unlink()
    run_command(evaluated, "export", "csv", tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    files[-1].write_text("other\n")
    error = run_command(evaluated, "export", "csv", tmp_path, code=1).stderr
    assert f"{files[-1]} exists already and differs" in error
    assert sorted(tmp_path.iterdir()) == files


def test_an_interrupted_write_leaves_the_former_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("former")

    def write() -> None:
        with whole_file(file) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert file.read_text() == "former"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk of /data/out is full (No space left on device)"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk of /data/out is full"),
        (OSError("Detail: [errno 28] No space left on device"), "the disk of /data/out is full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk of /data/out is full (Disk quota exceeded)"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "/data/out/x would exceed the limit of 'ulimit -f'"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "/data/out/x: Permission denied"),
        (RuntimeError("broken"), "/data/out/x: broken"),
    ],
)
def test_the_folder_of_a_full_disk_is_named(error: Exception, words: str) -> None:
    assert os_error_message(named_error(error, Path("/data/out/x"))).startswith(words)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_stdout(evaluated: Path) -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "clipstore", "sql", "SELECT 1 AS one"]
        result = subprocess.run(
            words,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(evaluated),
            cwd=TESTS.parent,
            text=True,
            check=False,
        )
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("clipstore: the disk of the output is full (No space left on device)")
