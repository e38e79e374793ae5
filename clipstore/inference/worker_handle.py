"""What is known of a worker by the process that gives it plan groups: its tasks, and the time since it was heard of."""

from __future__ import annotations

import os
import queue
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from clipstore.errors import OptionError
from clipstore.inference.attempts import Attempt
from clipstore.inference.worker import Message
from clipstore.records import PlanGroup

DEADLINE_VARIABLE = "CLIPSTORE_WORKER_DEADLINE"
_DEADLINE_SECONDS = 60.0
_START_SECONDS = 600.0  # for a worker to be placed and to load the models
_BEATS = 12  # messages that a worker sends within the deadline, at least
_STUCK_FACTOR = 10  # a worker that sends messages but makes no progress has this many times the deadline
_SLOW_FACTOR = 20  # or this many times the longest time between two steps so far, or the mean time of a plan's items


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

    def plan(self, seconds_per_item: float, items: int) -> float:
        """How long a plan of so many items may take, where items took so long on average so far."""
        return max(_STUCK_FACTOR * self.silent, _SLOW_FACTOR * seconds_per_item * items)


class WorkerHandle(ABC):
    """A worker at a place: on a device of this machine, or on a node of a cluster.

    `inbox` receives its messages, as (handle, message); None: its last one has come.

    Attributes:
        place: what messages call it, such as "the process on cpu".
        number: the number of its place.
        node: where it runs, for the progress; empty: on this machine.
        assigned: the attempts that it has and has not completed, oldest first.
        ready: whether its models are loaded.
        closed: whether it gets no more plan groups.
        unfinished: items that it has processed of groups that are not complete, by fingerprint.
        longest_step: the longest time between two signs of progress, in seconds.
    """

    def __init__(self, place: str, inbox: queue.SimpleQueue[tuple[WorkerHandle, Message | None]]) -> None:
        self.place, self.number, self.node = place, 0, ""
        self.ready = self.closed = False
        self.assigned: deque[Attempt] = deque()
        self.unfinished: Counter[str] = Counter()
        self.longest_step = 0.0
        self.heard = self.progressed = self._began = time.monotonic()
        self._inbox = inbox

    def give(self, attempt: Attempt) -> None:
        """Give it a plan group."""
        if not self.assigned:
            self._began = time.monotonic()
        self.assigned.append(attempt)
        self.send(attempt.group)

    def close(self) -> None:
        """There are no more plan groups for it."""
        self.closed = True
        self.send(None)

    @abstractmethod
    def send(self, group: PlanGroup | None) -> None:
        """Send it a plan group, or None: there are no more."""

    @abstractmethod
    def end(self, *, lost: bool) -> None:
        """End it, if it still runs. If it was lost, remove the temporary files that it leaves."""

    @abstractmethod
    def end_reason(self) -> str:
        """How a worker whose last message has come ended."""

    @abstractmethod
    def failure(self, failure: Exception | str) -> Exception:
        """The error to raise for an error in the worker, which is given as an exception or as its traceback."""

    def completed(self) -> tuple[Attempt, float]:
        """Take its oldest attempt, which is complete, and the seconds since the one before was."""
        attempt, now = self.assigned.popleft(), time.monotonic()
        seconds, self._began = now - self._began, now
        for plan in attempt.group.plans:
            self.unfinished[plan.tower.fingerprint] -= len(plan.contents)
        return attempt, seconds

    def excuse(self, now: float) -> None:
        """Restart the timeout, because this process was stopped itself."""
        self.heard = self.progressed = self._began = now

    def overdue(self, deadlines: Deadlines, longest_step: float, seconds_per_item: float, now: float) -> str | None:
        """Why the worker counts as stopped; None: it does not."""
        if self.ready and now - self.heard > deadlines.silent:
            return f"stopped: it has sent nothing for {now - self.heard:.0f} seconds"
        limit = deadlines.stuck(longest_step) if self.ready else _START_SECONDS
        if (self.assigned or not self.ready) and now - self.progressed > limit:
            return f"made no progress for {limit:.0f} seconds"
        items = sum(attempt.items for attempt in list(self.assigned)[:1])
        if items and now - self._began > deadlines.plan(seconds_per_item, items):
            return f"took more than {now - self._began:.0f} seconds for {items} items"
        return None

    def receive(self, message: Message) -> None:
        """Note the time of a message and put it into the inbox. Called by the thread that receives it."""
        self.heard = time.monotonic()
        if message.ready or message.processed or message.shards is not None:
            self.longest_step = max(self.longest_step, self.heard - self.progressed if self.ready else 0.0)
            self.progressed = self.heard
        self._inbox.put((self, message))


def remove_temporary(folders: Iterable[Path], writer: str) -> None:
    """Remove the temporary files of shards that a lost process left; `writer` is its part of their names."""
    for folder in folders:
        for leftover in folder.glob(f"*/.*.{writer}.tmp"):
            with suppress(OSError):
                leftover.unlink()
