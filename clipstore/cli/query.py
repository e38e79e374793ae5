"""`clipstore sql` and `clipstore query`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.errors import CatalogError

if TYPE_CHECKING:
    from clipstore.store.layout import Store

_format = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print.",
)
_network = click.option(
    "--allow-network", is_flag=True, help="Let DuckDB install extensions and open network addresses."
)


class _Statement(click.Command):
    """A command whose argument may begin with an SQL comment, `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put a statement that looks like an option behind `--`: one with white space that is no --OPTION=VALUE."""
        options = {name for parameter in self.params for name in parameter.opts}
        end = args.index("--") if "--" in args else len(args)
        comments = [
            word
            for word in args[:end]
            if word.startswith("--") and any(map(str.isspace, word)) and word.partition("=")[0] not in options
        ]
        rest = [word for word in args[:end] if word not in comments]
        return super().parse_args(ctx, [*rest, *(["--"] if comments else []), *comments, *args[end:]])


def _read_statement(statement: str) -> str:
    """The statement, or with "-" what stdin holds."""
    if statement != "-":
        return statement
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"the statement on stdin is not UTF-8: byte {error.start} is {error.object[error.start]:#x}"
        raise CatalogError(message) from error


@click.command(cls=_Statement)
@click.argument("statement")
@_format
@json_option
@_network
@store_option
def sql(statement: str, form: str, store: Store, *, as_json: bool, allow_network: bool) -> None:
    """Run a SQL statement on the catalog, read-only.

    The STATEMENT "-" is read from stdin. It may read local files; DuckDB installs or loads no extensions and opens no
    network addresses without --allow-network.

    Example: clipstore sql "SELECT metric, value FROM metrics WHERE direction = 'text_to_image'"
    """
    from clipstore.pipeline.query import run_sql
    from clipstore.reporting.tables import print_rows

    table = run_sql(store, _read_statement(statement), allow_network=allow_network)
    print_rows(table, "json" if as_json else form)


@click.command()
@click.argument("name", required=False)
@click.option("-p", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the query; may be repeated.")
@_format
@json_option
@_network
@store_option
def query(
    name: str | None, parameters: tuple[str, ...], form: str, store: Store, *, as_json: bool, allow_network: bool
) -> None:
    """Run a named query; without NAME, list them.

    Example: clipstore query failures -p model=demo -p limit=5
    """
    from clipstore.pipeline.query import list_queries, run_query
    from clipstore.reporting.tables import print_rows

    table = run_query(store, name, parameters, allow_network=allow_network) if name else list_queries()
    print_rows(table, "json" if as_json else form)
