"""Progress on stderr: bars with rate and remaining time on a terminal, periodic lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clipstore.reporting.streams import visible
from clipstore.reporting.tables import SafeConsole

_LINE_SECONDS = 10.0  # between two lines


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def progress_display() -> Iterator[ProgressDisplay]:
    """A progress callback that draws bars on a terminal or in a notebook and prints lines elsewhere.

    A notebook shows bars where ipywidgets is installed.
    """
    console = SafeConsole(stderr=True, markup=False, emoji=False)
    if not console.is_terminal and not (console.is_jupyter and find_spec("ipywidgets")):
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


class ProgressDisplay(Protocol):
    """A progress callback (see `clipstore.progress.Progress`) that can also print permanent lines."""

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        """Show the progress of a task."""

    def print_line(self, line: str) -> None:
        """Print a permanent line."""


class _Bars:
    """One bar per task."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        if task not in self._tasks:
            self._tasks[task] = self._progress.add_task(visible(task), total=total, note=visible(note))
        self._progress.update(self._tasks[task], completed=done, total=total, note=visible(note))

    def print_line(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, soft_wrap=True)


class _Lines:
    """A line every _LINE_SECONDS, and a last line for tasks that took longer than that."""

    def __init__(self, console: SafeConsole) -> None:
        self._console = console
        self._task = ""
        self._started = self._printed = 0.0
        self._done_at_start = 0

    def __call__(self, task: str, done: int, total: int, note: str = "", /) -> None:
        now = time.monotonic()
        if task != self._task:
            self._task, self._started, self._printed, self._done_at_start = task, now, now, done
        if now - self._printed >= _LINE_SECONDS or (done >= total and self._printed > self._started):
            rate = (done - self._done_at_start) / (now - self._started)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            digits = ".0f" if rate >= 10 else ".2g"
            self.print_line(f"{task}: {done}/{total}, {rate:{digits}}/s{left}{note and ', ' + note}")
            self._printed = now

    def print_line(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
