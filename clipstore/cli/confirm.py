"""Confirmation of the commands that remove something."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import Command
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.pipeline.removal import Removal


def yes_option(command: Command) -> Command:
    """`--yes`: remove without confirmation."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def remove_confirmed(remove: Callable[[bool], Removal], *, yes: bool, as_json: bool) -> None:
    """Print what `remove` would remove, ask for confirmation unless `yes`, remove it, and print the result.

    The argument of `remove` is True for a dry run.

    Raises:
        RemovalError: the user did not confirm, or stdin is no terminal.
    """
    from clipstore.errors import RemovalError
    from clipstore.reporting.tables import print_json

    if not yes:
        planned = remove(True)
        if not sys.stdin.isatty():
            message = f"nothing was removed ({next(planned.lines())}): confirm with --yes"
            raise RemovalError(message)
        for line in planned.lines():
            echo(line, err=True)
        if not click.confirm("Remove?", err=True):
            message = "nothing was removed"
            raise RemovalError(message)
    removal = remove(False)
    if as_json:
        print_json(removal.row())
        return
    for number, line in enumerate(removal.lines()):
        echo(f"removed {line}" if number == 0 else line)
