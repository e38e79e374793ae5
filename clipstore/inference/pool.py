"""A pool of workers, in processes of this machine or on the nodes of a cluster, which are given plan groups.

A worker that ends unexpectedly, is silent for too long or takes too long is replaced. Each of the plan groups that it
had is tried again alone. A group that workers were lost with twice is split in halves, until the item is left that ends
them, which is recorded as a failed item.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import chain, islice
from typing import Protocol

from clipstore.errors import ModelError
from clipstore.inference.attempts import Attempt
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.settings import Timings
from clipstore.inference.worker import Message
from clipstore.inference.worker_handle import Deadlines, WorkerHandle
from clipstore.inference.write import write_failed
from clipstore.records import PlanGroup
from clipstore.shards import Shard

_GROUPS_PER_WORKER = 2  # one that is encoded, and one whose images are prefetched
_START_ATTEMPTS = 2  # workers that are lost one after another before one of them has loaded the models

_MOST_FAILED = 8  # items that may end a worker before the run ends: each costs some ten workers to identify

_log = logging.getLogger(__name__)

Inbox = queue.SimpleQueue[tuple[WorkerHandle, Message | None]]
OnProgress = Callable[[str, int, str], None]  # fingerprint, items (negative: to be encoded again), node


class Places(Protocol):
    """Where workers can run."""

    @property
    def count(self) -> int:
        """The number of places."""

    def start(self, place: int, inbox: Inbox, beat: float) -> WorkerHandle:
        """Start a worker at a place, for which `start` was not called before or whose worker has ended."""

    def is_gone(self, place: int) -> bool:
        """Whether there is no such place any more, as its machine is gone."""


def encode_in_pool(
    places: Places,
    groups: Iterable[PlanGroup],
    settings: Mapping[str, WorkerSettings],
    timings: Mapping[str, Timings],
    splitters: Mapping[str, BatchSplitter],
    on_progress: OnProgress,
) -> Iterator[list[Shard]]:
    """Encode plans as `encode` does, by workers. The order of groups is not preserved.

    `settings`, `timings` and `splitters` are by fingerprint of a plan's tower. The workers' timings are added to
    `timings`. Each splitter gets the largest count of the workers.

    Raises:
        ClipstoreError: as `encode`, or workers end before they have loaded the models, or there is no place left.
    """
    pool = Pool(places, groups, settings, on_progress)
    try:
        for message in pool.run():
            if isinstance(message, list):
                yield message
                continue
            _add_timings(timings, message.timings or {})
            for fingerprint, count in (message.splits or {}).items():
                splitters[fingerprint].count = max(splitters[fingerprint].count, count)
    finally:
        pool.end()


class Pool:
    """The workers, the plan groups that none of them has, and those that are to be tried again."""

    def __init__(
        self,
        places: Places,
        groups: Iterable[PlanGroup],
        settings: Mapping[str, WorkerSettings],
        on_progress: OnProgress,
    ) -> None:
        self._places, self._settings, self._on_progress = places, settings, on_progress
        self._deadlines = Deadlines.from_environment()
        self._inbox: Inbox = queue.SimpleQueue()
        self._workers: list[WorkerHandle] = []
        self._unused: deque[int] = deque()  # places without a worker
        self._upcoming, self._exhausted = iter(groups), False
        self._again: deque[Attempt] = deque()
        self._lost_at_start = self._failures = 0
        self._seconds, self._items = 0.0, 0  # of complete groups, for the time that a plan may take
        self._checked = time.monotonic()

    def run(self) -> Iterator[list[Shard] | Message]:
        """The shards of each plan group once they are complete, and the last message of each worker."""
        first = list(islice(self._upcoming, self._places.count))  # no more workers than groups
        self._upcoming = chain(first, self._upcoming)
        self._unused = deque(range(self._places.count))
        for _ in first:
            self._start(self._unused.popleft())
        while self._workers:
            self._fill()
            try:
                worker, message = self._inbox.get(timeout=self._deadlines.beat)
            except queue.Empty:
                pass
            else:
                if worker in self._workers:  # messages of a lost worker may still come
                    yield from self._handle(worker, message)
            yield from self._replace_overdue()

    def end(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.end(lost=True)

    def _fill(self) -> None:
        """Give groups to the workers in turn, until each has enough or there are none. Close them after the last."""
        for count in range(_GROUPS_PER_WORKER):
            for worker in self._workers:
                if worker.ready and not worker.closed and len(worker.assigned) <= count:
                    attempt = self._take(worker)
                    if attempt:
                        worker.give(attempt)
        if self._exhausted and not self._again and not any(worker.assigned for worker in self._workers):
            self._close()

    def _close(self) -> None:
        """Close the workers, which then send their timings, and end those that have not loaded the models yet."""
        for worker in list(self._workers):
            if not worker.ready:
                self._workers.remove(worker)
                worker.end(lost=True)
            elif not worker.closed:
                worker.close()

    def _start(self, place: int) -> None:
        worker = self._places.start(place, self._inbox, self._deadlines.beat)
        worker.number = place
        self._workers.append(worker)

    def _take(self, worker: WorkerHandle) -> Attempt | None:
        """The next attempt for a worker; None: there is none, or it has to complete others before."""
        if any(attempt.alone for attempt in worker.assigned):
            return None
        if self._again and self._again[0].alone and worker.assigned:
            return None
        return self._again.popleft() if self._again else self._next()

    def _next(self) -> Attempt | None:
        group = next(self._upcoming, None)
        self._exhausted = group is None
        return Attempt(group) if group else None

    def _handle(self, worker: WorkerHandle, message: Message | None) -> Iterator[list[Shard] | Message]:
        """Act on a message of a worker; None: its last message has come.

        Raises:
            ClipstoreError: the worker's failure.
        """
        if message is None:
            yield from self._lose(worker, worker.end_reason())
        elif message.failure:
            raise worker.failure(message.failure)
        elif message.ready:
            worker.ready, self._lost_at_start = True, 0
        elif message.processed:
            self._progress(worker, *message.processed)
        elif message.shards is not None:
            attempt, seconds = worker.completed()
            self._seconds, self._items = self._seconds + seconds, self._items + attempt.items
            yield message.shards
        elif message.timings is not None:
            self._workers.remove(worker)
            worker.end(lost=False)
            yield message

    def _progress(self, worker: WorkerHandle, fingerprint: str, items: int) -> None:
        worker.unfinished[fingerprint] += items
        self._on_progress(fingerprint, items, worker.node)

    def _replace_overdue(self) -> Iterator[list[Shard]]:
        """Replace the workers that are silent, make no progress, or take too long."""
        now = time.monotonic()
        if now - self._checked > self._deadlines.silent / 2:  # this process was stopped, or its caller took long
            for worker in self._workers:
                worker.excuse(now)
        self._checked = now
        longest = max((worker.longest_step for worker in self._workers), default=0.0)
        mean = self._seconds / max(self._items, 1)
        for worker in list(self._workers):
            reason = worker.overdue(self._deadlines, longest, mean, now)
            if reason:
                yield from self._lose(worker, reason)

    def _lose(self, worker: WorkerHandle, reason: str) -> Iterator[list[Shard]]:
        """Give up a worker. Its groups are tried again, alone unless its machine is gone; items that ended it fail.

        Raises:
            ModelError: workers are lost before they have loaded the models, or no place for one is left.
        """
        self._workers.remove(worker)
        worker.end(lost=True)
        for fingerprint, items in worker.unfinished.items():
            self._on_progress(fingerprint, -items, worker.node)
        if self._places.is_gone(worker.number):
            _log.warning("clipstore: warning: %s is gone: its items go elsewhere", worker.place)
            self._again.extendleft(reversed(worker.assigned))
            if self._unused:
                self._start(self._unused.popleft())
            self._check_places(worker)
            return
        self._lost_at_start += not (worker.ready or any(other.ready for other in self._workers))
        if self._lost_at_start >= _START_ATTEMPTS:
            message = f"{worker.place} {reason} before it had loaded the model: run the same command again"
            raise ModelError(message)
        for attempt in worker.assigned:
            yield from self._retry(attempt, worker, reason)
        if not worker.closed:  # a closed worker had nothing left to do
            self._start(worker.number)

    def _retry(self, attempt: Attempt, worker: WorkerHandle, reason: str) -> Iterator[list[Shard]]:
        """Try a group again after a worker was lost with it, or its halves; a single item has failed after that."""
        retries = attempt.lost()
        if not retries:
            words = "the item that it had has failed"
        elif len(retries) > 1:
            words = f"searching its {attempt.items} items for the one that ends it"
        else:
            words = "trying its items again"
        _log.warning("clipstore: warning: %s %s: %s", worker.place, reason, words)
        self._again.extendleft(reversed(retries))
        if not retries:
            yield self._failed(attempt.group, reason)
            self._failures += 1
        if self._failures >= _MOST_FAILED:
            message = (
                f"{self._failures} items ended the process that encoded them ({reason}), which may have another cause, "
                "such as too little memory: the same command goes on with the other items"
            )
            raise ModelError(message)

    def _check_places(self, worker: WorkerHandle) -> None:
        """Check that there are workers left after one whose place is gone.

        Raises:
            ModelError: there are none.
        """
        if not self._workers and not worker.closed:
            message = f"{worker.place} was the last one: completed work is saved; run the same command again to resume"
            raise ModelError(message)

    def _failed(self, group: PlanGroup, reason: str) -> list[Shard]:
        """The shards of a group whose items have all failed."""
        shards: list[Shard] = []
        for plan in group.plans:
            fingerprint = plan.tower.fingerprint
            shards += write_failed(plan, self._settings[fingerprint], f"the process that encoded it {reason}, twice")
            self._on_progress(fingerprint, len(plan.contents), "")
        return shards


def _add_timings(totals: Mapping[str, Timings], timings: Mapping[str, Timings]) -> None:
    for fingerprint, update in timings.items():
        total = totals[fingerprint]
        for field in fields(Timings):
            setattr(total, field.name, getattr(total, field.name) + getattr(update, field.name))
