"""The parent's side of a worker process: start, tasks, messages, the time since it was last heard of, and its end."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from clipstore.errors import OptionError
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.worker import Message, run_worker
from clipstore.records import PlanGroup

DEADLINE_VARIABLE = "CLIPSTORE_WORKER_DEADLINE"
_DEADLINE_SECONDS = 60.0
_BEATS = 12  # messages that a worker sends within the deadline, at least
_STUCK_FACTOR = 10  # a worker that sends messages but makes no progress has this many times the deadline
_SLOW_FACTOR = 20  # or this many times the longest time between two steps so far
_END_SECONDS = 5.0  # for a worker to end after SIGTERM, and after SIGKILL


@dataclass(frozen=True)
class Deadlines:
    """How long a worker may be silent, in seconds."""

    silent: float

    @classmethod
    def from_environment(cls) -> Deadlines:
        """The deadlines of $CLIPSTORE_WORKER_DEADLINE, the seconds after which a silent worker counts as stopped.

        Raises:
            OptionError: it is not a positive number.
        """
        text = os.environ.get(DEADLINE_VARIABLE, "")
        try:
            seconds = float(text or _DEADLINE_SECONDS)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < float("inf"):
            message = f"{DEADLINE_VARIABLE} must be a positive number of seconds, not {text!r}"
            raise OptionError(message)
        return cls(seconds)

    @property
    def beat(self) -> float:
        """The time between two messages that say only that the worker runs."""
        return self.silent / _BEATS

    def stuck(self, longest_step: float) -> float:
        """How long a worker may make no progress, where steps so far took at most `longest_step`."""
        return max(_STUCK_FACTOR * self.silent, _SLOW_FACTOR * longest_step)


class WorkerHandle:
    """A worker process on a device. `inbox` receives its messages, as (handle, message); None: its last one has come.

    Attributes:
        assigned: the plan groups that it has and has not completed, oldest first.
        alone: whether it was started for one plan group only.
        ready: whether its models are loaded.
        closed: whether it gets no more plan groups.
        unfinished: items that it has processed of groups that are not complete, by fingerprint.
    """

    def __init__(
        self,
        device: str,
        threads: int,
        settings: Mapping[str, WorkerSettings],
        inbox: queue.SimpleQueue[Any],
        *,
        beat: float,
    ) -> None:
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
        receiver, sender = context.Pipe(duplex=False)
        self.device, self.alone, self.ready, self.closed = device, False, False, False
        self.assigned: deque[PlanGroup] = deque()
        self.unfinished: Counter[str] = Counter()
        self.longest_step = 0.0
        self._folders = {worker.storage.root / "shards" for worker in settings.values()}
        self._tasks = context.Queue()
        arguments = (device, threads, dict(settings), self._tasks, sender, beat)
        self._process = context.Process(target=run_worker, args=arguments, daemon=True)
        with _signals_blocked():
            self._process.start()
        sender.close()  # so that the receiver ends with the process
        self.heard = self.progressed = time.monotonic()
        threading.Thread(target=self._receive, args=(receiver, inbox), daemon=True).start()

    def give(self, group: PlanGroup | None) -> None:
        """Give it a plan group, or None: there are no more."""
        if group is None:
            self.closed = True
        else:
            self.assigned.append(group)
        self._tasks.put(group)

    def completed(self) -> PlanGroup:
        """Take its oldest plan group, which is complete."""
        group = self.assigned.popleft()
        for plan in group.plans:
            self.unfinished[plan.tower.fingerprint] -= len(plan.contents)
        return group

    def excuse(self, now: float) -> None:
        """Restart the timeout, because this process was stopped itself."""
        self.heard = self.progressed = now

    def overdue(self, deadlines: Deadlines, longest_step: float, now: float) -> str | None:
        """Why the worker counts as stopped; None: it does not."""
        if self.ready and now - self.heard > deadlines.silent:
            return f"stopped: it has sent nothing for {now - self.heard:.0f} seconds"
        limit = deadlines.stuck(longest_step)
        if now - self.progressed > limit:
            return f"made no progress for {limit:.0f} seconds"
        return None

    def end(self) -> None:
        """End the process, if it still runs, and remove the temporary files that it leaves."""
        self._tasks.cancel_join_thread()  # groups that it does not take would block the end of this process
        self._process.terminate()
        self._process.join(_END_SECONDS)
        if self._process.exitcode is None:  # a stopped process does not see SIGTERM
            self._process.kill()
            self._process.join(_END_SECONDS)
        for folder in self._folders:
            for leftover in folder.glob(f"*/.*.{self._process.pid}.tmp"):
                with suppress(OSError):
                    leftover.unlink()

    def end_reason(self) -> str:
        """How a process that has closed its connection ended."""
        self._process.join(_END_SECONDS)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"ended by signal {signal.Signals(-code).name}"
        return f"ended unexpectedly with exit code {code}"

    def _receive(self, messages: Connection, inbox: queue.SimpleQueue[Any]) -> None:
        """Put the messages into the inbox as they come, so that their times are right while the inbox is not read."""
        with suppress(EOFError, OSError):
            while True:
                message: Message = messages.recv()
                self.heard = time.monotonic()
                if message.ready or message.processed or message.shards is not None:
                    self.longest_step = max(self.longest_step, self.heard - self.progressed if self.ready else 0.0)
                    self.progressed = self.heard
                    self.ready = True
                inbox.put((self, message))
        inbox.put((self, None))


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
