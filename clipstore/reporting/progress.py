"""Progress on stderr: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_LINE_SECONDS = 10.0

OnProgress = Callable[[str, int, int], None]


class _Rate(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f}/s" if task.speed else "")


@contextmanager
def shown_progress() -> Iterator[OnProgress]:
    """A callable that takes what is being done, how many are done, and how many there are."""
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield on_progress


class _Lines:
    """A line every ten seconds, and at the end of what took longer than that."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what = ""
        self._began = self._said = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said = what, now, now
        if now - self._said >= _LINE_SECONDS or (done >= total and self._said > self._began):
            rate = done / (now - self._began)
            left = f", {(total - done) / rate:.0f} s left" if rate else ""
            self._console.print(f"{what}: {done}/{total}, {rate:.0f}/s{left}", highlight=False)
            self._said = now
