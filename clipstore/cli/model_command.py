"""Commands that run a model."""

from __future__ import annotations

import click

from clipstore.process import retain_freed_memory


class ModelCommand(click.Command):
    """A command that runs a model: its process retains freed memory.

    That is set before the options are parsed, because `--store` imports pyarrow.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set up the process, then parse the arguments."""
        retain_freed_memory()
        return super().parse_args(ctx, args)
