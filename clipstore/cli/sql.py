"""`clipstore sql`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import access_options, format_option, json_option, safe_csv_option, store_option
from clipstore.errors import CatalogError

if TYPE_CHECKING:
    from clipstore.store.layout import Store


class _Statement(click.Command):
    """A command whose argument may begin with a SQL comment, `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move a statement that looks like an option (it has whitespace, and is not --OPTION=VALUE) behind `--`."""
        options = {name for parameter in self.params for name in parameter.opts}
        end = args.index("--") if "--" in args else len(args)
        comments = [
            word
            for word in args[:end]
            if word.startswith("--") and any(map(str.isspace, word)) and word.partition("=")[0] not in options
        ]
        rest = [word for word in args[:end] if word not in comments]
        return super().parse_args(ctx, [*rest, *(["--"] if comments else []), *comments, *args[end:]])


@click.command(cls=_Statement)
@click.argument("statement")
@format_option
@safe_csv_option(default=False)
@json_option
@access_options
@store_option
def sql(statement: str, form: str, store: Store, *, safe_csv: bool, as_json: bool, **access: bool) -> None:
    """Run a SQL statement on the catalog, read-only.

    The STATEMENT "-" is read from stdin. DuckDB reads and writes no file beside the catalog without --allow-files; it
    installs or loads no extension and opens no network address without --allow-network.

    Example: clipstore sql "SELECT metric, value FROM metrics WHERE direction = 'text_to_image'"
    """
    from clipstore.pipeline.query import run_sql
    from clipstore.reporting.tables import print_rows

    table = run_sql(store, _read_statement(statement), **access)
    print_rows(table, "json" if as_json else form, safe_csv=safe_csv)


def _read_statement(statement: str) -> str:
    """The statement, or for "-" the contents of stdin.

    Raises:
        CatalogError: stdin is not UTF-8.
    """
    if statement != "-":
        return statement
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the statement on stdin is not UTF-8: byte {error.start} is {error.object[error.start]:#x}"
        raise CatalogError(message) from error
