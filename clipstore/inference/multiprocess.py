"""Workers in processes of this machine: one per device."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from clipstore.errors import ClipstoreError
from clipstore.files import writer_name
from clipstore.inference.feed import GroupFeed
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.pool import Inbox
from clipstore.inference.worker import Message, Worker, start_beat
from clipstore.inference.worker_handle import WorkerHandle, remove_temporary
from clipstore.records import PlanGroup

_END_SECONDS = 5.0  # for a worker to end after SIGTERM, and after SIGKILL
_POLL_SECONDS = 1.0  # after this time without a task, check that the parent process is alive


def cpu_threads(devices: Sequence[str]) -> int:
    """Threads of a worker on the CPU, where there is one worker per device."""
    return max(1, (os.cpu_count() or 1) // len(devices))


class LocalPlaces:
    """Devices of this machine, each for one worker process."""

    def __init__(self, devices: Sequence[str], settings: Mapping[str, WorkerSettings]) -> None:
        self._devices, self._settings = devices, settings

    @property
    def count(self) -> int:
        """The number of devices."""
        return len(self._devices)

    def start(self, place: int, inbox: Inbox, beat: float) -> WorkerHandle:
        """Start a process on a device."""
        return _ProcessHandle(self._devices[place], cpu_threads(self._devices), self._settings, inbox, beat=beat)

    def is_gone(self, _place: int) -> bool:
        """Whether the machine is gone: it is not."""
        return False


class _ProcessHandle(WorkerHandle):
    """A worker process."""

    def __init__(
        self, device: str, threads: int, settings: Mapping[str, WorkerSettings], inbox: Inbox, *, beat: float
    ) -> None:
        super().__init__(f"the process on {device}", inbox)
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
        receiver, sender = context.Pipe(duplex=False)
        self._folders = sorted({worker.storage.root / "shards" for worker in settings.values()})
        self._tasks = context.Queue()
        arguments = (device, threads, dict(settings), self._tasks, sender, beat)
        self._process = context.Process(target=_run_process, args=arguments, daemon=True)
        with _signals_blocked():
            self._process.start()
        sender.close()  # so that the receiver ends with the process
        threading.Thread(target=self._receive, args=(receiver,), daemon=True).start()

    def send(self, group: PlanGroup | None) -> None:
        self._tasks.put(group)

    def end(self, *, lost: bool) -> None:
        self._tasks.cancel_join_thread()  # groups that it does not take would block the end of this process
        self._process.terminate()
        self._process.join(_END_SECONDS)
        if self._process.exitcode is None:  # a stopped process does not see SIGTERM
            self._process.kill()
            self._process.join(_END_SECONDS)
        if lost:
            remove_temporary(self._folders, writer_name(self._process.pid))

    def end_reason(self) -> str:
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"ended by signal {signal.Signals(-code).name}"
        return f"ended unexpectedly with exit code {code}"

    def failure(self, failure: Exception | str) -> Exception:
        if isinstance(failure, ClipstoreError):
            return failure
        return RuntimeError(f"unexpected error in a worker process:\n{failure}")

    def _receive(self, messages: Connection) -> None:
        """Take the messages as they come, so that their times are right while the inbox is not read."""
        with suppress(EOFError, OSError):
            while True:
                self.receive(messages.recv())
        self._inbox.put((self, None))


def _run_process(
    device: str,
    threads: int,
    settings: dict[str, WorkerSettings],
    tasks: Any,
    messages: Connection,
    beat: float,
) -> None:
    """The worker process. It sends a message at least every `beat` seconds."""
    for name in ("SIGINT", "SIGHUP"):  # the parent receives them too, and ends this process
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    lock = threading.Lock()

    def send(message: Message) -> None:
        with lock, suppress(OSError):  # the parent process may have ended
            messages.send(message)

    ended = start_beat(send, beat)
    try:
        Worker(device, threads, send).run(settings, GroupFeed(lambda wait: _take(tasks, wait=wait)))
    finally:
        ended.set()
        messages.close()


def _take(tasks: Any, *, wait: bool) -> PlanGroup | None:
    """The next plan group of the queue; None: there is none yet.

    Raises:
        StopIteration: there are no more, or the parent process has ended.
    """
    parent = multiprocessing.parent_process()
    try:
        group: PlanGroup | None = tasks.get(timeout=_POLL_SECONDS) if wait else tasks.get_nowait()
    except queue.Empty:
        if parent is None or not parent.is_alive():
            raise StopIteration from None
        return None
    if group is None:
        raise StopIteration
    return group


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Within the block, a process that is started inherits that Ctrl-C does not reach it: its parent ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    blocked: Sequence[int] = (signal.SIGINT,)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
