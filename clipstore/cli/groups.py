"""Commands that are also groups: `clipstore split NAME …` draws a split, `clipstore split remove NAME` removes one."""

from __future__ import annotations

from typing import Any

import click


class DefaultGroup(click.Group):
    """A group that runs its default command unless the first argument names another one.

    Its help is the default command's, followed by the list of the other commands.
    """

    def __init__(self, default: click.Command) -> None:
        super().__init__(name=default.name, help=default.help, short_help=default.short_help)
        self.default = default

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of the default command, unless the first argument is another command or a help option."""
        names = parent.help_option_names if parent else ["-h", "--help"]
        if args and (args[0] in self.commands or args[0] in names):
            return super().make_context(info_name, args, parent=parent, **extra)
        return self.default.make_context(info_name, args, parent=parent, **extra)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the default command's help and the list of the other commands."""
        context = click.Context(self.default, info_name=ctx.info_name, parent=ctx.parent)
        self.default.format_help(context, formatter)
        self.format_commands(ctx, formatter)
