"""The argument `progress` of the Python API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipstore.api.arguments import ProgressCallback, ShowProgress
from clipstore.reporting.progress import ProgressDisplay, progress_display


@contextmanager
def progress_of(progress: ShowProgress) -> Iterator[ProgressDisplay]:
    """The progress of one call: bars with True, the user's callback, or nothing with None or False."""
    if progress is True:
        with progress_display() as display:
            yield display
    else:
        yield _Callback(progress or None)


class _Callback:
    """Progress that calls a user's function with all four arguments. It prints no lines: results have them too."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        if self._callback:
            self._callback(task, done, total, note)

    def print_line(self, line: str) -> None:
        """Print nothing."""
