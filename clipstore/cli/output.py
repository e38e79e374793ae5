"""Output that several commands share."""

from __future__ import annotations

import click


def print_warning(warning: str) -> None:
    """Print a warning as one line on stderr."""
    click.echo(f"clipstore: warning: {warning}", err=True)
