"""Two network namespaces of this machine, joined by a cable, with a node of a Ray cluster in each."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from helpers import TESTS

POISON = "000000000900.jpg"  # the image file that ends a worker, for readers of `broken_readers` that look for it
WORKER_ADDRESS = "10.213.77.2"
_ADDRESSES = ("10.213.77.1", WORKER_ADDRESS)
_DEADLINE_SECONDS = "15"  # after which a silent worker counts as stopped
_MEMORY = 100 * 2**20  # of Ray's object store, in bytes


class Nodes:
    """A head and a worker node; `with` starts the head, and at its end ends every process in the namespaces."""

    def __init__(self) -> None:
        self._names = [f"clip{os.getpid()}{side}" for side in "ab"]
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
        self.address = f"{_ADDRESSES[0]}:6379"

    def __enter__(self) -> Nodes:
        try:
            self._connect()
            self._start(0, "--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={self._folder}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self._names):
            self.kill_node(number)
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def driver(self, store: Path, reader: str = "") -> Iterator[subprocess.Popen[str]]:
        """A driver (see `ray_driver`) on the head, which is killed at the end of the block if it still runs."""
        words = [sys.executable, "-m", "ray_driver", store, self.address, reader]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = _environment({"CLIPSTORE_WORKER_DEADLINE": _DEADLINE_SECONDS})
        with subprocess.Popen(self._command(0, *words), env=environment, cwd=TESTS, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def embed(self, store: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `clipstore embed` of the demo model on the cluster."""
        command = [sys.executable, "-m", "clipstore", "embed", "--model", "demo", "--store", store, *words]
        return subprocess.run(
            self._command(0, *command, "--ray", self.address),
            env=_environment({}),
            cwd=TESTS,
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def start_worker_node(self, mounts: Mapping[Path, Path] | None = None, **variables: str) -> None:
        """Start the worker node, unless it runs. There, each key of `mounts` shows the file or folder of its value."""
        if not self.processes(1):
            self._start(1, f"--address={self.address}", mounts=mounts or {}, **variables)

    def kill_node(self, number: int) -> None:
        """Kill all processes of a node."""
        for process in self.processes(number):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def workers(self, number: int) -> list[int]:
        """The processes on a node that encode."""
        return [process for process in self.processes(number) if b"ray::RayWorker" in _command_line(process)]

    def wait_for_no_workers(self) -> None:
        """Wait until Ray has ended the workers of a driver that has ended."""
        until = time.monotonic() + 60
        while self.workers(0) or self.workers(1):
            assert time.monotonic() < until
            threading.Event().wait(0.1)

    def processes(self, number: int) -> list[int]:
        """The processes of a node."""
        words = ["ip", "netns", "pids", self._names[number]]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        return [int(process) for process in result.stdout.split()]

    def _connect(self) -> None:
        cable = [f"clip{os.getpid()}{end}"[-15:] for end in "xy"]
        for name in self._names:
            _ip("netns", "add", name)
        _ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for name, end, address in zip(self._names, cable, _ADDRESSES, strict=True):
            _ip("link", "set", end, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", end, "up")

    def _start(self, number: int, *options: str, mounts: Mapping[Path, Path] | None = None, **variables: str) -> None:
        words = ["start", *options, f"--node-ip-address={_ADDRESSES[number]}", "--num-cpus=1"]
        words += [f"--object-store-memory={_MEMORY}", "--disable-usage-stats"]
        commands = [
            f"mount --bind {shlex.quote(str(new))} {shlex.quote(str(old))}" for old, new in (mounts or {}).items()
        ]
        commands.append(f"exec {shlex.join([sys.executable, '-m', 'ray.scripts.scripts', *words])}")
        command = self._command(number, "unshare", "--mount", "sh", "-c", " && ".join(commands))
        log = self._folder / f"start-{number}.log"
        with log.open("w") as out:
            process = subprocess.run(
                command, env=_environment(variables), cwd="/", stdout=out, stderr=out, check=False, timeout=120
            )
        assert process.returncode == 0, log.read_text()

    def _command(self, number: int, *words: object) -> list[str]:
        return ["ip", "netns", "exec", self._names[number], *map(str, words)]


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a node: this process's, with the tests' modules and the shortest time to notice a loss."""
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    settings = {
        "PYTHONPATH": paths,
        "POISON": POISON,
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # else other work on this machine goes first
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
    }
    return os.environ | settings | dict(variables)


def _command_line(process: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
