"""Signals that end a command in order: Ctrl-C, SIGTERM, SIGHUP. One message, its exit code, and the work resumes."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from itertools import cycle, islice
from random import Random

from torture.attacks import Outcome
from torture.processes import Command, Result, run
from torture.workspaces import Task, Workspaces, content, differences

_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def signals(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Send `count` signals to commands at random moments."""
    seconds: dict[Task, float] = {}
    for task in islice(cycle(workspaces.tasks), count):
        if task not in seconds:
            began = time.perf_counter()
            workspaces.result(task)
            seconds[task] = time.perf_counter() - began
        kind, moment = random.choice(list(_CODES)), random.uniform(0, seconds[task])
        workspace = workspaces.copy(task.state)
        command = Command(workspace, task.words)
        time.sleep(moment)  # the moment is what is random here
        command.send(kind)
        fault = _fault(command.wait(), kind)
        if not fault:
            again = run(workspace, *task.words)
            changed = differences(workspaces.result(task), content(workspace))
            fault = again.fault or (f"different: {', '.join(changed)}" if changed else None)
        yield Outcome(f"{task.words[0]}: {kind.name} after {moment:.3f} s", fault)


def _fault(result: Result, kind: signal.Signals) -> str | None:
    """Why a command did not end as it should: with the message and the exit code of the signal, or complete.

    A signal before the command line has started ends the process itself.
    """
    if "Traceback" in result.stderr:
        return f"traceback: {result.stderr.strip().splitlines()[-1]}"
    if result.code not in {0, _CODES[kind], -kind}:
        return result.fault or f"exit code {result.code}"
    if result.code == _CODES[kind] and "resume" not in result.stderr:
        return f"no message: {result.stderr[-200:]}"
    return None
