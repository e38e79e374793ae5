"""What the commands that remove something share: ask first, then say what was removed and what remains."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from clipstore.pipeline.removal import Removal

Command = Callable[..., Any]


def yes_option(command: Command) -> Command:
    """`--yes`: remove without asking."""
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(command)


def confirmed(remove: Callable[[bool], Removal], *, yes: bool, as_json: bool) -> None:
    """Remove what `remove` removes (told whether it is a trial), once the user agreed to what goes with it.

    Raises:
        RemovalError: the user did not agree, or cannot be asked.
    """
    from clipstore.errors import RemovalError
    from clipstore.reporting.tables import print_json

    if not yes:
        planned = remove(True)
        if not sys.stdin.isatty():
            message = f"nothing was removed ({next(planned.lines())}): confirm with --yes"
            raise RemovalError(message)
        for line in planned.lines():
            click.echo(line, err=True)
        if not click.confirm("Remove?", err=True):
            message = "nothing was removed"
            raise RemovalError(message)
    done = remove(False)
    if as_json:
        print_json(done.row())
        return
    for number, line in enumerate(done.lines()):
        click.echo(f"removed {line}" if number == 0 else line)
