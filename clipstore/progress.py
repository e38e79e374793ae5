"""Progress callbacks of long-running work."""

from __future__ import annotations

import time
from collections import Counter as Counts
from threading import Lock
from typing import Protocol

_NAMED_NODES = 4  # in a note


class Progress(Protocol):
    """Called with a task's description, items done, total items, and an optional note on the current state."""

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        """Report the progress of a task."""


def no_progress(_task: str, _done: int, _total: int, _note: str = "") -> None:
    """Report nothing."""


class Counter(Protocol):
    """Called with a number of items and an optional note on the current state."""

    def __call__(self, items: int, note: str = "", /) -> None:
        """Add a number of items."""


def progress_counter(on_progress: Progress, task: str, total: int, *, done: int = 0) -> Counter:
    """A callback that adds up numbers of items, `done` at first, and reports the sum; several threads may call it."""
    lock = Lock()

    def count(items: int, note: str = "", /) -> None:
        nonlocal done
        with lock:
            done += items
            on_progress(task, done, total, note)

    return count


class NodeRates:
    """The items per second of each node of a cluster, since the first item, as a note for the progress."""

    def __init__(self) -> None:
        self._items: Counts[str] = Counts()
        self._began: float | None = None

    def add(self, node: str, items: int) -> str:
        """Count items of a node ("": none). Returns the note: the rate of each node, or of many the lowest."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        if node:
            self._items[node] += items
        seconds = max(now - self._began, 1.0)
        rates = sorted((max(count, 0) / seconds, name) for name, count in self._items.items())
        if len(rates) > _NAMED_NODES:
            return f"{len(rates)} nodes, slowest {rates[0][1]} {rates[0][0]:.0f}/s"
        return ", ".join(f"{name} {rate:.0f}/s" for rate, name in sorted(rates, key=lambda pair: pair[1]))
