"""Ctrl-C, SIGTERM, SIGHUP and a closed pipe end a command in order: one line, its exit code, no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import environment
from tiny_store import SPLIT, build_store

from clipstore.cli.exits import errors_as_exits
from clipstore.interrupts import Interrupted, interruptible

# Sends itself a signal as soon as a module is imported, and then runs the command line.
_PROGRAM = """
import os, sys
module, number = sys.argv.pop(1), int(sys.argv.pop(1))
class Finder:
    def find_spec(name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(Finder)
            os.kill(os.getpid(), number)
sys.meta_path.insert(0, Finder)
from clipstore.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("signals"))


@pytest.mark.parametrize(
    ("module", "number", "words", "code"),
    [
        ("click", signal.SIGINT, "interrupted", 130),
        ("clipstore.cli.evaluate", signal.SIGTERM, "ended by SIGTERM", 143),
        pytest.param("numpy", signal.SIGINT, "interrupted", 130, marks=pytest.mark.full),
        ("duckdb", signal.SIGHUP, "ended by SIGHUP", 129),
        pytest.param("numba", signal.SIGINT, "interrupted", 130, marks=pytest.mark.full),
    ],
)
def test_a_signal_during_an_import(
    module: str, number: signal.Signals, words: str, code: int, small_store: Path
) -> None:
    command = [sys.executable, "-c", _PROGRAM, module, str(int(number)), "eval", "--model", "m", "--split", SPLIT]
    result = subprocess.run(command, env=environment(small_store), capture_output=True, text=True, check=False)
    assert result.stderr == f"clipstore: {words}; completed work is saved, run the same command to resume\n"
    assert (result.stdout, result.returncode) == ("", code)


def test_a_signal_while_a_command_runs(small_store: Path, tmp_path: Path) -> None:
    """The command waits for a statement on a pipe; under nohup, SIGHUP stays ignored."""
    command = [sys.executable, "-m", "clipstore", "sql", "-"]
    for ignored, number in ((False, signal.SIGTERM), (True, signal.SIGHUP)):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        try:
            process = subprocess.Popen(
                [*command],
                env=environment(small_store),
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        finally:
            signal.signal(signal.SIGHUP, before)
        with process:
            assert process.stdin
            process.stdin.write(b"SELECT 1 ")
            process.stdin.flush()
            process.send_signal(number)
            error = process.communicate(b"AS one")[1].decode()
        assert process.returncode in ((0,) if ignored else (143, -signal.SIGTERM))  # Python may not have started
        assert "Traceback" not in error


def test_a_closed_pipe_is_quiet(small_store: Path) -> None:
    command = [sys.executable, "-m", "clipstore", "sql", "SELECT range AS number FROM range(100000)"]
    with subprocess.Popen(
        command, env=environment(small_store), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode in {141, 0}  # 0: the system took all of it before the pipe was closed


# ---- in this process ----


def test_signals_raise_within_the_block_and_are_restored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        with pytest.raises(Interrupted) as caught, interruptible():
            signal.raise_signal(number)
        assert caught.value.exit_code == 128 + number
        assert {each: signal.getsignal(each) for each in before} == before


def test_an_interruption_that_a_destructor_swallows_is_raised_again() -> None:
    class Swallowing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def run() -> None:
        with interruptible():
            Swallowing()
            threading.Event().wait(60)

    start = time.monotonic()
    with pytest.raises(Interrupted):
        run()
    assert time.monotonic() - start < 30  # the signal ends the wait


def test_an_interruption_that_a_library_turns_into_an_error_is_still_one() -> None:
    def run() -> None:
        with interruptible(), errors_as_exits():
            try:
                signal.raise_signal(signal.SIGTERM)
            except Interrupted as error:
                message = "cannot import something"
                raise ImportError(message) from error

    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 143
