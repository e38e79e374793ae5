"""Progress callbacks of long-running work."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with a task's description, items done, total items, and an optional note on the current state."""

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        """Report the progress of a task."""


def no_progress(_task: str, _done: int, _total: int, _note: str = "") -> None:
    """Report nothing."""
