"""Progress on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
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

_LINE_SECONDS = 10.0


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def shown_progress() -> Iterator[Shown]:
    """Progress that shows itself while the block runs."""
    console = Console(stderr=True, markup=False, emoji=False)
    if not console.is_terminal:
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


class Shown(Protocol):
    """Progress as the pipeline tells it, shown; and lines that stay."""

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None:
        """Show what is being done, how many are done, how many there are, and perhaps a word on how it goes."""

    def say(self, line: str) -> None:
        """Print a line that stays."""


class _Bars:
    """A bar for each thing that is being done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total, note=note)
        self._progress.update(self._tasks[what], completed=done, total=total, note=note)

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, soft_wrap=True)


class _Lines:
    """A line every ten seconds, and at the end of what took longer than that."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._began = self._said = 0.0
        self._before = 0

    def __call__(self, what: str, done: int, total: int, note: str = "", /) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said, self._before = what, now, now, done
        if now - self._said >= _LINE_SECONDS or (done >= total and self._said > self._began):
            rate = (done - self._before) / (now - self._began)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            self.say(f"{what}: {done}/{total}, {rate:{'.0f' if rate >= 10 else '.2g'}}/s{left}{note and ', ' + note}")
            self._said = now

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)
