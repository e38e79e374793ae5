"""Kills (SIGKILL) at random moments and at each named step; the same command, run again, completes the work.

The result must be that of a run that was not killed: nothing lost, doubled or different, and nothing left over.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from torture.attacks import Outcome
from torture.damage import flip_bit
from torture.processes import Command, Limits, run
from torture.steps import Step, read_steps
from torture.workspaces import State, Workspaces, content, differences


class _Verb(NamedTuple):
    """A command under attack, the state of the store before it, and the commands that follow it once it is complete."""

    name: str
    state: State
    words: tuple[object, ...]
    prepare: Callable[[Path], None] | None = None
    then: tuple[tuple[object, ...], ...] = ()


class _Reference(NamedTuple):
    """A run that was not killed: what the store contains then, its duration in seconds, and the steps it takes."""

    content: dict[str, Any]
    seconds: float
    steps: list[Step]


def random_kills(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Kill each command in turn, at a moment drawn uniformly from its duration."""
    for verb, reference in _take(workspaces, random, count):
        moment = random.uniform(0, reference.seconds)
        workspace = _prepared(workspaces, verb)
        command = Command(workspace, verb.words)
        time.sleep(moment)  # the moment is what is random here
        command.send(signal.SIGKILL)
        command.wait()
        yield Outcome(f"{verb.name} killed after {moment:.3f} s", _resumed(workspace, verb, reference))


def kills_at_steps(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Kill each command in turn at one of its steps; no step is taken twice before all were taken."""
    pending: dict[str, list[Step]] = {}
    for verb, reference in _take(workspaces, random, count):
        if not pending.get(verb.name):
            pending[verb.name] = random.sample(reference.steps, len(reference.steps))
        step = pending[verb.name].pop()
        workspace = _prepared(workspaces, verb)
        result = run(workspace, *verb.words, limits=Limits(kill_at=step))
        fault = None if result.code == -signal.SIGKILL else f"it was not killed: exit code {result.code}"
        yield Outcome(f"{verb.name} killed {step}", fault or _resumed(workspace, verb, reference))


def _take(workspaces: Workspaces, random: Random, count: int) -> Iterator[tuple[_Verb, _Reference]]:
    """`count` times one of the commands, all equally often, with its reference."""
    verbs = _verbs(workspaces)
    random.shuffle(verbs)
    references: dict[str, _Reference] = {}
    for verb in islice(cycle(verbs), count):
        if verb.name not in references:
            references[verb.name] = _reference(workspaces, verb)
        yield verb, references[verb.name]


def _verbs(workspaces: Workspaces) -> list[_Verb]:
    ingest, embed, evaluate, train = workspaces.tasks
    return [
        _Verb("ingest", *ingest),
        _Verb("embed", *embed),
        _Verb("eval", *evaluate),
        _Verb("train", *train),
        _Verb("rebuild", "evaluated", ("catalog", "rebuild", "--evaluate")),
        _Verb("repair", "embedded", ("verify", "--repair"), _damage_shard, (embed.words,)),
    ]


def _damage_shard(workspace: Path) -> None:
    flip_bit(sorted((workspace / "store" / "shards").rglob("*.h5"))[0], Random(0))


def _prepared(workspaces: Workspaces, verb: _Verb) -> Path:
    workspace = workspaces.copy(verb.state)
    if verb.prepare:
        verb.prepare(workspace)
    return workspace


def _reference(workspaces: Workspaces, verb: _Verb) -> _Reference:
    workspace = _prepared(workspaces, verb)
    steps = workspace / "steps"
    began = time.perf_counter()
    run(workspace, *verb.words, limits=Limits(steps=steps))
    seconds = time.perf_counter() - began
    for words in verb.then:
        run(workspace, *words)
    return _Reference(content(workspace), seconds, read_steps(steps))


def _resumed(workspace: Path, verb: _Verb, reference: _Reference) -> str | None:
    """Run the command again; why the store is not that of the reference."""
    for words in (verb.words, *verb.then):
        result = run(workspace, *words)
        if result.fault:
            return result.fault
    changed = differences(reference.content, content(workspace))
    return f"different: {', '.join(changed)}" if changed else None
