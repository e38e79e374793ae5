"""The process of a worker on a node of a Ray cluster. Its methods are called by Ray, which this module does not import.

Messages are fetched by the process that gives plan groups: each call waits for the next one. So a process that is
stopped or lost is noticed by a call that gives nothing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping

from clipstore.files import writer_name
from clipstore.inference.feed import GroupFeed
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.worker import Message, Worker
from clipstore.records import PlanGroup

_POLL_SECONDS = 1.0  # after this time without a plan group, look whether a shard could not be written

_Tasks = queue.SimpleQueue[PlanGroup | None]


class RayWorker:
    """A `Worker`, whose models stay loaded from one run to the next."""

    def __init__(self, device: str, threads: int) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._tasks: _Tasks = queue.SimpleQueue()
        self._worker = Worker(device, threads, self._send)

    def _send(self, message: Message) -> None:
        self._messages.put(message)

    def writer(self) -> str:
        """The part of the names of its temporary files that states this process."""
        return writer_name()

    def begin(self, settings: Mapping[str, WorkerSettings]) -> None:
        """Begin a run, in a thread of its own, with the messages and plan groups that belong to it."""
        self._tasks, self._messages = queue.SimpleQueue(), queue.SimpleQueue()
        tasks = self._tasks
        feed = GroupFeed(lambda wait: _take(tasks, wait=wait))
        threading.Thread(target=self._worker.run, args=(settings, feed), daemon=True).start()

    def give(self, group: PlanGroup | None) -> None:
        """Add a plan group to the run, or None: there are no more."""
        self._tasks.put(group)

    def messages(self, seconds: float) -> list[Message]:
        """The messages since the last call, once there are any; at the latest after so many seconds."""
        arrived, messages = self._messages, []  # those of this run, also if another one begins meanwhile
        try:
            messages.append(arrived.get(timeout=seconds))
            while True:
                messages.append(arrived.get_nowait())
        except queue.Empty:
            return messages


def _take(tasks: _Tasks, *, wait: bool) -> PlanGroup | None:
    """The next plan group; None: there is none yet.

    Raises:
        StopIteration: there are no more.
    """
    try:
        group = tasks.get(timeout=_POLL_SECONDS) if wait else tasks.get_nowait()
    except queue.Empty:
        return None
    if group is None:
        raise StopIteration
    return group
