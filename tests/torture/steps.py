"""Named steps of a command: each flush, rename, deletion and commit, at which a process can kill itself.

The functions of the standard library and of DuckDB that take these steps are wrapped in the attacked process; clipstore
itself knows nothing of it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb

When = Literal["before", "after"]


class Step(NamedTuple):
    """The `number`-th call (from 1) of a function in a process, and whether it is stopped before or after it."""

    name: str
    number: int
    when: When

    def __str__(self) -> str:
        return f"{self.when} {self.name} {self.number}"


_FUNCTIONS: dict[str, tuple[Any, str]] = {
    "fsync": (os, "fsync"),
    "replace": (os, "replace"),
    "rename": (os, "rename"),
    "unlink": (os, "unlink"),
    "rmdir": (os, "rmdir"),
    "commit": (duckdb.DuckDBPyConnection, "commit"),
}


def record_steps(file: Path) -> None:
    """Append a line to `file` at each step of this process."""

    def record(step: Step) -> None:
        with file.open("a") as out:
            out.write(f"{step.name} {step.number} {step.when}\n")

    _wrap(record)


def read_steps(file: Path) -> list[Step]:
    """The steps that `record_steps` wrote."""
    lines = (line.split() for line in (file.read_text().splitlines() if file.exists() else ()))
    return [Step(name, int(number), "before" if when == "before" else "after") for name, number, when in lines]


def kill_at(step: Step) -> None:
    """Let this process kill itself at a step."""

    def kill(reached: Step) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    _wrap(kill)


def _wrap(at_step: Callable[[Step], None]) -> None:
    counts: Counter[str] = Counter()
    for name, (owner, attribute) in _FUNCTIONS.items():
        setattr(owner, attribute, _wrapped(name, getattr(owner, attribute), counts, at_step))


def _wrapped(
    name: str, function: Callable[..., Any], counts: Counter[str], at_step: Callable[[Step], None]
) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        counts[name] += 1
        number = counts[name]
        at_step(Step(name, number, "before"))
        result = function(*args, **options)
        at_step(Step(name, number, "after"))
        return result

    return call
