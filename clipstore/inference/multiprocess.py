"""Encode on several devices: each has a worker process, which is given plan groups.

A worker that ends unexpectedly, or is silent for too long, is replaced. Each of the plan groups that it had is tried
again in a worker of its own; a group whose worker is lost again is recorded as failed items.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

from clipstore.errors import ClipstoreError, ModelError
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.settings import Timings
from clipstore.inference.worker import Message
from clipstore.inference.worker_handle import Deadlines, WorkerHandle
from clipstore.inference.write import write_failed
from clipstore.records import PlanGroup
from clipstore.shards import Shard

# Plan groups that a worker has. It can take its fourth before it returns the first, so fewer would deadlock.
_GROUPS_PER_WORKER = 4
_START_ATTEMPTS = 2  # workers that are lost one after another before one of them has loaded the models

_log = logging.getLogger(__name__)


def cpu_threads(devices: Sequence[str]) -> int:
    """Threads of a worker on the CPU, where there is one worker per device."""
    return max(1, (os.cpu_count() or 1) // len(devices))


def encode_in_processes(
    devices: list[str],
    groups: Iterable[PlanGroup],
    settings: Mapping[str, WorkerSettings],
    timings: Mapping[str, Timings],
    splitters: Mapping[str, BatchSplitter],
    on_progress: Callable[[str, int], None],
) -> Iterator[list[Shard]]:
    """Encode plans as `encode` does, in one worker process per device. The order of groups is not preserved.

    `settings`, `timings` and `splitters` are by fingerprint of a plan's tower. `on_progress` is called with that
    fingerprint and a number of items, which is negative where items are to be encoded again. The workers' timings are
    added to `timings`. Each splitter gets the largest count of the workers.

    Raises:
        ClipstoreError: as `encode`, or workers end before they have loaded the models.
    """
    pool = _Pool(devices, groups, settings, on_progress)
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


class _Pool:
    """The workers, the plan groups that none of them has, and those that are to be tried again alone."""

    def __init__(
        self,
        devices: list[str],
        groups: Iterable[PlanGroup],
        settings: Mapping[str, WorkerSettings],
        on_progress: Callable[[str, int], None],
    ) -> None:
        self._devices, self._upcoming, self._settings, self._on_progress = devices, iter(groups), settings, on_progress
        self._deadlines = Deadlines.from_environment()
        self._inbox: queue.SimpleQueue[tuple[WorkerHandle, Message | None]] = queue.SimpleQueue()
        self._workers: list[WorkerHandle] = []
        self._again: deque[PlanGroup] = deque()
        self._lost_at_start = 0
        self._checked = time.monotonic()

    def run(self) -> Iterator[list[Shard] | Message]:
        """The shards of each plan group once they are complete, and the last message of each worker."""
        for device in self._devices:
            self._occupy(device)
        self._fill()
        while self._workers:
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
            worker.end()

    def _occupy(self, device: str) -> None:
        """Start a worker on a device: for a group to be tried again, else for the groups that are left, if any are."""
        alone = bool(self._again)
        group = self._again.popleft() if alone else next(self._upcoming, None)
        if group is None:
            return
        threads = cpu_threads(self._devices)
        worker = WorkerHandle(device, threads, self._settings, self._inbox, beat=self._deadlines.beat)
        worker.alone = alone
        self._workers.append(worker)
        worker.give(group)
        if alone:
            worker.give(None)

    def _fill(self) -> None:
        """Give groups to the workers in turn, until each has enough or there are none."""
        for count in range(1, _GROUPS_PER_WORKER):
            for worker in self._workers:
                if len(worker.assigned) <= count and not worker.closed:
                    worker.give(next(self._upcoming, None))

    def _handle(self, worker: WorkerHandle, message: Message | None) -> Iterator[list[Shard] | Message]:
        """Act on a message of a worker; None: it has closed its connection.

        Raises:
            ClipstoreError: the worker's failure.
        """
        if message is None:
            yield from self._lose(worker, worker.end_reason())
        elif isinstance(message.failure, ClipstoreError):
            raise message.failure
        elif message.failure:
            text = f"unexpected error in a worker process:\n{message.failure}"
            raise RuntimeError(text)
        elif message.ready:
            self._lost_at_start = 0
        elif message.processed:
            worker.unfinished[message.processed[0]] += message.processed[1]
            self._on_progress(*message.processed)
        elif message.shards is not None:
            worker.completed()
            self._fill()
            yield message.shards
        elif message.timings is not None:
            self._workers.remove(worker)
            worker.end()
            yield message
            self._occupy(worker.device)
            self._fill()

    def _replace_overdue(self) -> Iterator[list[Shard]]:
        """Replace the workers that are silent or make no progress."""
        now = time.monotonic()
        if now - self._checked > self._deadlines.silent / 2:  # this process was stopped, or its caller took long
            for worker in self._workers:
                worker.excuse(now)
        self._checked = now
        longest = max((worker.longest_step for worker in self._workers), default=0.0)
        for worker in list(self._workers):
            reason = worker.overdue(self._deadlines, longest, now)
            if reason:
                yield from self._lose(worker, reason)

    def _lose(self, worker: WorkerHandle, reason: str) -> Iterator[list[Shard]]:
        """Give up a worker. Its groups are tried again alone; a group that was alone already has failed.

        Raises:
            ModelError: workers are lost before they have loaded the models.
        """
        self._workers.remove(worker)
        worker.end()
        for fingerprint, items in worker.unfinished.items():
            self._on_progress(fingerprint, -items)
        self._lost_at_start += not worker.ready
        if self._lost_at_start >= _START_ATTEMPTS:
            message = (
                f"the process on {worker.device} {reason} before it had loaded the model: run the same command again"
            )
            raise ModelError(message)
        groups = list(worker.assigned)
        if worker.alone and worker.ready:
            _log.warning("clipstore: warning: the process on %s %s again: its items have failed", worker.device, reason)
            for group in groups:
                yield self._failed(group, reason)
        else:
            _log.warning("clipstore: warning: the process on %s %s: trying its items again", worker.device, reason)
            self._again.extend(groups)
        self._occupy(worker.device)
        self._fill()

    def _failed(self, group: PlanGroup, reason: str) -> list[Shard]:
        """The shards of a group whose items have all failed."""
        shards: list[Shard] = []
        for plan in group.plans:
            fingerprint = plan.tower.fingerprint
            shards += write_failed(plan, self._settings[fingerprint], f"the process that encoded it {reason}, twice")
            self._on_progress(fingerprint, len(plan.contents))
        return shards


def _add_timings(totals: Mapping[str, Timings], timings: Mapping[str, Timings]) -> None:
    for fingerprint, update in timings.items():
        total = totals[fingerprint]
        for field in fields(Timings):
            setattr(total, field.name, getattr(total, field.name) + getattr(update, field.name))
