"""Progress callbacks of long-running work."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Protocol


class Progress(Protocol):
    """Called with a task's description, items done, total items, and an optional note on the current state."""

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        """Report the progress of a task."""


def no_progress(_task: str, _done: int, _total: int, _note: str = "") -> None:
    """Report nothing."""


def progress_counter(on_progress: Progress, task: str, total: int, *, done: int = 0) -> Callable[[int], None]:
    """A callback that adds up numbers of items, `done` at first, and reports the sum; several threads may call it."""
    lock = Lock()

    def count(items: int) -> None:
        nonlocal done
        with lock:
            done += items
            on_progress(task, done, total)

    return count
