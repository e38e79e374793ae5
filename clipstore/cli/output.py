"""Output that several commands share. Control characters in it are escaped: names and paths come from datasets."""

from __future__ import annotations

import logging

import click

from clipstore.reporting.streams import visible


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text on stdout or stderr, with its control characters other than line feeds escaped."""
    click.echo(visible(text, keep="\n"), err=err, nl=nl)


def print_error(message: str) -> None:
    """Print an error as one line on stderr."""
    echo(f"clipstore: {' '.join(message.split())}", err=True)


def print_warning(warning: str) -> None:
    """Print a warning as one line on stderr."""
    print_error(f"warning: {warning}")


def escape_log_messages() -> None:
    """Escape control characters in warnings of the library, which Python prints on stderr where nothing else does."""
    if logging.lastResort:
        logging.lastResort.setFormatter(_EscapingFormatter())


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), keep="\n")
