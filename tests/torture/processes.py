"""Clipstore commands in processes of their own, which can be killed, limited or interrupted.

The processes are forked from a server that has imported the libraries, so that one starts in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

from torture.steps import Step, kill_at, record_steps

TIMEOUT = 120.0  # seconds that a command on the small stores may take on a busy machine

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torture.preload"])


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a command's process has to put up with.

    Attributes:
        file_size: the largest file that it may write, in bytes (RLIMIT_FSIZE); None: no limit.
        kill_at: the step at which it kills itself.
        steps: a file to which it appends each step that it reaches.
        environment: additional environment variables.
    """

    file_size: int | None = None
    kill_at: Step | None = None
    steps: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The exit code of a process (negative: the signal that ended it) and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def fault(self) -> str | None:
        """Why the output is not that of a well-behaved command: a traceback, or an error without a message."""
        if "Traceback (most recent call last)" in self.stderr + self.stdout:
            return f"traceback: {self.stderr.strip().splitlines()[-1]}"
        if self.code in {0, 3, -signal.SIGKILL}:
            return None
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        messages = [line for line in self.stderr.splitlines() if line.startswith("clipstore: ")]
        return None if messages else f"exit code {self.code} without a message"


class Command:
    """A running clipstore command; its current folder is `workspace`, and its store is `workspace`/store."""

    def __init__(self, workspace: Path, words: Sequence[object], limits: Limits | None = None) -> None:
        self._output = Path(tempfile.mkdtemp(prefix="torture-output-"))  # elsewhere: the workspace's disk may be full
        started = _CONTEXT.Event()  # a signal before that would end multiprocessing's own code
        arguments = (started, workspace, self._output, [str(word) for word in words], limits or Limits())
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()
        started.wait(TIMEOUT)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, number)

    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    def wait(self, seconds: float = TIMEOUT) -> Result:
        """Wait until it ends; after `seconds` it is killed, and the result says so on stderr."""
        self._process.join(seconds)
        late = self._process.is_alive()
        if late:
            self._process.kill()
            self._process.join()
        texts = {}
        for name in ("stdout", "stderr"):
            file = self._output / name
            texts[name] = file.read_text(errors="replace") if file.exists() else ""
        shutil.rmtree(self._output)
        code = self._process.exitcode
        self._process.close()
        assert code is not None
        return Result(124 if late else code, texts["stdout"], texts["stderr"])


def run(workspace: Path, *words: object, limits: Limits | None = None) -> Result:
    """Run a command until it ends."""
    return Command(workspace, words, limits).wait()


def _run(started: Event, workspace: Path, output: Path, words: list[str], limits: Limits) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in a process that has not imported anything yet
    started.set()
    os.chdir(workspace)
    os.environ.update({"CLIPSTORE_STORE": "store", "HF_HUB_OFFLINE": "1"} | limits.environment)
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(output / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
    if limits.file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writes then fail with EFBIG, as they fail on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_size, limits.file_size))
    if limits.steps:
        record_steps(limits.steps)
    if limits.kill_at:
        kill_at(limits.kill_at)
    from clipstore.cli import main

    sys.argv = ["clipstore", *words]
    main()
