"""When a worker counts as stopped: by silence, lack of progress, or the time of a plan at the measured rate."""

from __future__ import annotations

import queue
import time

import pytest

from clipstore.inference.attempts import Attempt
from clipstore.inference.worker import Message
from clipstore.inference.worker_handle import Deadlines, WorkerHandle
from clipstore.records import ImageFile, PlanGroup

DEADLINES = Deadlines(silent=60.0)
GROUP = PlanGroup(plans=(), image_files=tuple(ImageFile(str(n), str(n), 1) for n in range(1000)))


class Unconnected(WorkerHandle):
    """A worker that nothing is sent to."""

    def send(self, group: PlanGroup | None) -> None:
        pass

    def end(self, *, lost: bool) -> None:
        pass

    def end_reason(self) -> str:
        return "ended"

    def failure(self, failure: Exception | str) -> Exception:
        return RuntimeError(str(failure))


@pytest.fixture
def worker() -> WorkerHandle:
    """A worker that has loaded its models and has a plan."""
    worker = Unconnected("the worker", queue.SimpleQueue())
    worker.receive(Message(ready=True))
    worker.ready = True
    worker.give(Attempt(GROUP))
    return worker


def test_a_worker_that_is_silent(worker: WorkerHandle) -> None:
    now = time.monotonic()
    assert worker.overdue(DEADLINES, 1.0, 0.01, now + 50) is None
    assert "stopped: it has sent nothing for 61 seconds" in (worker.overdue(DEADLINES, 1.0, 0.01, now + 61) or "")
    worker.excuse(now + 60)
    assert worker.overdue(DEADLINES, 1.0, 0.01, now + 61) is None


def test_a_worker_that_makes_no_progress(worker: WorkerHandle) -> None:
    now = time.monotonic()
    worker.heard = now + 1000
    assert worker.overdue(DEADLINES, 60.0, 0.01, now + 1000) == "took more than 1000 seconds for 1000 items"
    worker._began = now + 1000
    assert worker.overdue(DEADLINES, 60.0, 0.01, now + 1000) is None  # 20 times the longest step
    assert worker.overdue(DEADLINES, 1.0, 0.01, now + 1000) == "made no progress for 600 seconds"


def test_a_plan_has_twenty_times_the_mean_time_of_its_items(worker: WorkerHandle) -> None:
    now = time.monotonic()
    worker.heard = worker.progressed = now + 1000
    assert worker.overdue(DEADLINES, 1.0, 0.1, now + 1000) is None
    assert worker.overdue(DEADLINES, 1.0, 0.04, now + 1000) == "took more than 1000 seconds for 1000 items"


def test_a_worker_without_plans_may_wait(worker: WorkerHandle) -> None:
    worker.completed()
    now = time.monotonic()
    worker.heard = now + 5000
    assert worker.overdue(DEADLINES, 1.0, 0.01, now + 5000) is None


def test_a_worker_may_take_ten_minutes_to_load_its_models() -> None:
    worker, now = Unconnected("the worker", queue.SimpleQueue()), time.monotonic()
    assert worker.overdue(Deadlines(silent=1.0), 0.0, 0.0, now + 590) is None
    assert worker.overdue(Deadlines(silent=1.0), 0.0, 0.0, now + 601) == "made no progress for 600 seconds"
