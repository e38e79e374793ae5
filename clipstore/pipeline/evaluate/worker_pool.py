"""Actors on the nodes of a Ray cluster that rank the parts of a score matrix, one part at a time each.

The part of an actor that is lost, or that takes far longer than the others, goes to another; in its place a new one is
started while its node lives.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clipstore.cluster import Node, current_nodes, last_line, on_node
from clipstore.errors import ClipstoreError, ClusterError

if TYPE_CHECKING:
    from clipstore.ranking import Part, PartRanks

_LOSSES = 3  # workers that one part may lose
_POLL_SECONDS = 5.0
_START_SECONDS = 300.0  # for the first worker to start
_SLOW, _PATIENCE = 10, 60.0  # a part may take this many times as long as the slowest before it, and these seconds
_FIRST_SECONDS = 7200.0  # for a part while none is finished: a hundred times what a core needs

_log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class _Worker:
    """An actor, its node and its process; the part that it ranks, and since when (`time.monotonic`)."""

    actor: Any
    node: Node
    process_id: int = 0
    part: Part | None = None
    since: float = 0.0


class WorkerPool:
    """The actors of a cluster; `actor` is their class, whose argument is the number of CPUs of each.

    Its methods are `process_id()` and `rank(task, part)`, which returns a `PartRanks` or the error to raise.
    """

    def __init__(self, actor: type, nodes: Sequence[Node], cpus: int | None) -> None:
        import ray

        self._ray, self._actor, self._cpus = ray, actor, cpus
        self._starting: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._running: dict[Any, _Worker] = {}
        self._waiting: deque[Part] = deque()
        self._losses: Counter[Part] = Counter()
        self._slowest = self._since = 0.0  # seconds of a part of this matrix; when a worker was last running
        self._problem = "none has started"
        for node in nodes:
            for _ in range(node.cpus // (cpus or node.cpus)):
                self._start(node)

    def __len__(self) -> int:
        return len(self._starting) + len(self._idle) + len(self._running)

    def results(self, task: object, parts: Sequence[Part]) -> Generator[PartRanks]:
        """The results of all parts, as they come. After an error the workers are stopped.

        Raises:
            ClipstoreError: a worker returned it.
            ClusterError: no worker is left, a part lost several, or a worker failed.
        """
        self._waiting, self._losses = deque(parts), Counter()
        self._slowest, self._since = 0.0, time.monotonic()
        try:
            yield from self._rank(self._ray.put(task))
        finally:
            if self._running:  # results that nobody waits for
                self.stop()

    def stop(self) -> None:
        """Stop all workers."""
        for worker in (*self._starting.values(), *self._idle, *self._running.values()):
            self._ray.kill(worker.actor)
        self._starting, self._idle, self._running = {}, [], {}
        self._problem = "they were stopped"

    def _rank(self, shared: Any) -> Generator[PartRanks]:
        while self._waiting or self._running:
            self._submit(shared)
            for reference in self._wait():
                if reference in self._starting:
                    self._finish_start(reference)
                    continue
                result = self._finish_part(reference)
                self._submit(shared)  # before this result is merged
                if result is not None:
                    yield result
            self._stop_slow()

    def _start(self, node: Node) -> None:
        cpus = self._cpus or node.cpus
        remote = self._ray.remote(num_cpus=cpus, max_restarts=0, max_task_retries=0)(self._actor)
        actor = remote.options(scheduling_strategy=on_node(node)).remote(cpus)
        self._starting[actor.process_id.remote()] = _Worker(actor=actor, node=node)

    def _finish_start(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            worker.process_id = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._problem = f"the one on the node {worker.node.name} did not start: {last_line(str(error))}"
        else:
            self._idle.append(worker)

    def _submit(self, shared: Any) -> None:
        while self._idle and self._waiting:
            worker = self._idle.pop(0)
            worker.part, worker.since = self._waiting.popleft(), time.monotonic()
            self._running[worker.actor.rank.remote(shared, worker.part)] = worker

    def _wait(self) -> list[Any]:
        """The references that are ready, after a while perhaps none.

        Raises:
            ClusterError: no worker is left, or none could be started.
        """
        pending = [*self._starting, *self._running]
        if not pending:
            message = f"no worker is left on the Ray cluster ({self._problem}): see 'ray status', then run this again"
            raise ClusterError(message)
        ready, _ = self._ray.wait(pending, num_returns=1, timeout=_POLL_SECONDS)
        if self._running or ready:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _START_SECONDS:
            message = (
                f"no worker could start within {_START_SECONDS:.0f} seconds: other work has the CPUs of the Ray "
                "cluster (see 'ray status'); use fewer with --ray-cpus"
            )
            raise ClusterError(message)
        return list(ready)

    def _finish_part(self, reference: Any) -> PartRanks | None:
        """The result of a part; None: its worker was lost."""
        worker = self._running.pop(reference)
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            message = f"ranking failed on the node {worker.node.name}: {last_line(str(error))}"
            raise ClusterError(message) from error
        except self._ray.exceptions.RayError as error:
            self._lose(worker, last_line(str(error)))
            return None
        self._idle.append(worker)
        if isinstance(result, ClipstoreError):
            raise _on_node(result, worker.node)
        self._slowest = max(self._slowest, time.monotonic() - worker.since)
        return result  # type: ignore[no-any-return]

    def _stop_slow(self) -> None:
        """Give up the workers that take far longer than the others: they are stopped or unreachable."""
        limit = _SLOW * self._slowest + _PATIENCE if self._slowest else _FIRST_SECONDS
        for reference, worker in list(self._running.items()):
            seconds = time.monotonic() - worker.since
            if seconds > limit:
                del self._running[reference]
                self._lose(worker, f"no answer for {seconds:.0f} seconds")

    def _lose(self, worker: _Worker, reason: str) -> None:
        """Put the part of a lost worker back, and start another one.

        Raises:
            ClusterError: the part has lost several workers.
        """
        assert worker.part is not None
        self._problem = f"the one on the node {worker.node.name} was lost: {reason}"
        self._losses[worker.part] += 1
        if self._losses[worker.part] >= _LOSSES:
            message = (
                f"{_LOSSES} workers were lost while they ranked the same part ({self._problem}): if their nodes ran "
                "out of memory, use a smaller --memory or fewer workers (--ray-cpus)"
            )
            raise ClusterError(message)
        message = "the worker %d on the node %s was lost: its part is ranked again (%s)"
        _log.warning(message, worker.process_id, worker.node.name, reason)
        self._waiting.appendleft(worker.part)
        self._ray.kill(worker.actor)
        if worker.node.id in {node.id for node in current_nodes()}:
            self._start(worker.node)


def _on_node(error: ClipstoreError, node: Node) -> ClipstoreError:
    """An error with the node that it occurred on; one that has attributes is its own record."""
    return error if vars(error) else type(error)(f"on the node {node.name}: {error}")
