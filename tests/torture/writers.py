"""Two processes that write one store at the same time: both succeed, and the result is that of one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from torture.attacks import Outcome
from torture.processes import Command, run
from torture.workspaces import EMBED, EVAL, TRAIN, State, Workspaces, content, differences

Words = tuple[object, ...]


def two_writers(workspaces: Workspaces, random: Random, count: int) -> Iterator[Outcome]:
    """Start two commands together, `count` times."""
    images, captions = ((*EMBED, "--only", kind) for kind in ("images", "captions"))
    pairs: list[tuple[State, Words, Words]] = [
        ("ingested", EMBED, EMBED),
        ("embedded", EVAL, EVAL),
        ("ingested", images, captions),
        ("embedded", EVAL, ("split", "u", "--from", "s/all", "--images", "10")),
        ("empty", workspaces.ingest.words, workspaces.ingest.words),
        ("embedded", TRAIN, EVAL),
    ]
    for number in range(count):
        state, first, second = pairs[number % len(pairs)]
        apart = workspaces.copy(state)
        for words in (first, second):
            run(apart, *words)
        together = workspaces.copy(state)
        commands = [Command(together, words) for words in (first, second)]
        results = [command.wait() for command in commands]
        fault = next((result.fault or result.stderr for result in results if result.fault or result.code), None)
        changed = None if fault else differences(content(apart), content(together))
        yield Outcome(f"{first[0]} and {second[0]}", fault or (f"different: {', '.join(changed)}" if changed else None))
