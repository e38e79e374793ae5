"""Workers on the nodes of a Ray cluster: one per GPU, or per a number of CPUs.

Ray starts the processes and reports lost ones. A place is a share of one node; a worker that was lost is started again
at its place, and a node that was lost has no places any more.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipstore.cluster import Node, current_nodes, last_line, on_node
from clipstore.errors import ClipstoreError, ClusterError
from clipstore.inference.loading import WorkerSettings
from clipstore.inference.pool import Inbox
from clipstore.inference.ray_actor import RayWorker
from clipstore.inference.worker import Message
from clipstore.inference.worker_handle import Deadlines, WorkerHandle, remove_temporary
from clipstore.records import PlanGroup

_CPUS_OF_A_GPU = 1  # that Ray sets aside for a worker on a GPU
_RETRY_SECONDS = 1.0  # between two calls of an actor that cannot be reached

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A share of a node for one worker: a GPU, or some CPUs."""

    node: Node
    cpus: int
    gpus: int


def cluster_places(nodes: Sequence[Node], cpus: int | None = None) -> list[Place]:
    """The places for workers, node by node in turn.

    Without `cpus` one per GPU, or if no node has any, one per node with all of its CPUs. With `cpus` one per so many
    CPUs, and no GPU is used.

    Raises:
        ClusterError: there is none.
    """
    gpus = cpus is None and any(node.gpus for node in nodes)
    places: list[list[Place]] = []
    for node in nodes:
        if gpus:
            places.append([Place(node, _CPUS_OF_A_GPU, 1)] * node.gpus)
        elif node.cpus:
            size = cpus or node.cpus
            places.append([Place(node, size, 0)] * (node.cpus // size))
    longest = max(map(len, places), default=0)
    result = [of_node[turn] for turn in range(longest) for of_node in places if turn < len(of_node)]
    if not result:
        resources = f"{cpus} CPUs" if cpus else "CPUs or GPUs"
        message = f"no node of the Ray cluster has {resources} for a worker: see 'ray status'"
        raise ClusterError(message)
    return result


class RayPlaces:
    """The places of a cluster. Their workers keep their models from one run to the next.

    Attributes:
        settings: of the next run, by fingerprint.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._idle: dict[int, Any] = {}  # actors
        self.settings: Mapping[str, WorkerSettings] = {}

    @property
    def count(self) -> int:
        """The number of places."""
        return len(self._places)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that have places."""
        return tuple(dict.fromkeys(place.node for place in self._places))

    @property
    def on_gpus(self) -> bool:
        """Whether the workers compute on GPUs."""
        return any(place.gpus for place in self._places)

    @property
    def threads(self) -> int:
        """The number of threads that run models on all places, as far as they are on CPUs."""
        return sum(place.cpus for place in self._places)

    def start(self, place: int, inbox: Inbox, beat: float) -> WorkerHandle:
        """Start a worker, or let an idle one begin another run."""
        actor = self._idle.pop(place, None) or _start_actor(self._places[place])

        def keep() -> None:
            self._idle[place] = actor

        return _RayHandle(actor, self._places[place].node, self.settings, inbox, beat=beat, keep=keep)

    def is_gone(self, place: int) -> bool:
        """Whether Ray has noticed that the node is gone."""
        return self._places[place].node.id not in {node.id for node in current_nodes()}


class _RayHandle(WorkerHandle):
    """A worker in an actor of Ray."""

    def __init__(
        self,
        actor: Any,
        node: Node,
        settings: Mapping[str, WorkerSettings],
        inbox: Inbox,
        *,
        beat: float,
        keep: Callable[[], None],
    ) -> None:
        super().__init__(f"the worker on {node.name}", inbox)
        self.node = node.name
        self._actor, self._settings, self._beat, self._keep = actor, settings, beat, keep
        self._folders = sorted({worker.storage.root / "shards" for worker in settings.values()})
        self._writer, self._reason = "", "ended unexpectedly"
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, group: PlanGroup | None) -> None:
        self._actor.give.remote(group)

    def end(self, *, lost: bool) -> None:
        if not lost:
            self._keep()
            return
        import ray

        ray.kill(self._actor)
        if self._writer:
            remove_temporary(self._folders, self._writer)

    def end_reason(self) -> str:
        return self._reason

    def overdue(self, deadlines: Deadlines, longest_step: float, seconds_per_item: float, now: float) -> str | None:
        reason = super().overdue(deadlines, longest_step, seconds_per_item, now)
        if reason and not self._writer:
            return f"{reason}: other work holds the CPUs or GPUs of its node, see 'ray status'"
        return reason

    def failure(self, failure: Exception | str) -> Exception:
        text = str(failure) if isinstance(failure, ClipstoreError) else last_line(str(failure))
        error = ClusterError(f"{self.place} failed: {text}")
        error.__cause__ = failure if isinstance(failure, Exception) else RuntimeError(failure)
        return error

    def _receive(self) -> None:
        """Fetch the messages until the last one of the run, or until the actor is lost."""
        import ray

        try:
            self._writer = ray.get(self._actor.writer.remote())  # waits until Ray has placed the actor
            ray.get(self._actor.begin.remote(self._settings))
            self.heard = self.progressed = time.monotonic()
            while self._receive_some(ray):
                pass
        except ray.exceptions.OutOfMemoryError:
            self._reason = "was ended by Ray, because its node had too little memory"
        except ray.exceptions.RayTaskError as error:
            self._inbox.put((self, Message(failure=str(error))))
        except (ray.exceptions.RayError, ray.exceptions.RaySystemError) as error:
            _log.debug("%s: %s", self.place, error)
        else:
            return
        self._inbox.put((self, None))

    def _receive_some(self, ray: Any) -> bool:
        """Fetch the messages that have arrived. Returns whether more can come."""
        call = self._actor.messages.options(concurrency_group="messages")
        try:
            messages = ray.get(call.remote(self._beat))
        except ray.exceptions.ActorUnavailableError:  # the connection was interrupted: the deadline of silence decides
            time.sleep(_RETRY_SECONDS)
            return True
        self.heard = time.monotonic()
        for message in messages:
            self.receive(message)
        return not any(message.timings is not None or message.failure for message in messages)


def _start_actor(place: Place) -> Any:
    """Start an actor at a place. Ray never restarts it: another one is started in its place."""
    import ray

    options: dict[str, Any] = {
        "num_cpus": place.cpus,
        "num_gpus": place.gpus,
        "scheduling_strategy": on_node(place.node),
    }
    actor = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"messages": 1})(RayWorker)
    return actor.options(**options).remote("cuda" if place.gpus else "cpu", place.cpus)
