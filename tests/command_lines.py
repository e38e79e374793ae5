"""Command lines of clipstore, taken apart by click and not run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from clipstore.cli import main
from clipstore.cli.groups import DefaultGroup


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """The path of every command and subcommand, such as ("model", "add")."""
    for name, command in group.commands.items():
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


def main_options() -> set[str]:
    """The options of `clipstore` itself, which come before the command."""
    return {name for parameter in main.params for name in parameter.opts}


def parse(line: str) -> click.Context:
    """Parse a command line without running it.

    Raises:
        click.UsageError: click refuses it.
        KeyError: there is no such command.
    """
    name, *words = shlex.split(line, comments=True)
    assert name == "clipstore"
    command: click.Command = main
    while words and words[0] in main_options():
        words.pop(0)
    while isinstance(command, click.Group):
        if isinstance(command, DefaultGroup) and words[:1] not in [[name] for name in command.commands]:
            command = command.default
            continue
        name = words.pop(0)
        command = command.commands[name]
    return command.make_context(name, words)
