"""`clipstore sql` and `clipstore query`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.pipeline.store import Store

_format = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print.",
)


@click.command()
@click.argument("statement")
@_format
@json_option
@store_option
def sql(statement: str, form: str, store: Store, *, as_json: bool) -> None:
    """Run a SQL statement on the catalog, read-only.

    Example: clipstore sql "SELECT metric, value FROM metrics WHERE direction = 'text_to_image'"
    """
    from clipstore.pipeline.query import run_sql
    from clipstore.reporting.tables import print_rows

    print_rows(run_sql(store, statement), "json" if as_json else form)


@click.command()
@click.argument("name", required=False)
@click.option("-p", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the query; may be repeated.")
@_format
@json_option
@store_option
def query(name: str | None, parameters: tuple[str, ...], form: str, store: Store, *, as_json: bool) -> None:
    """Run a named query; without NAME, list them.

    Example: clipstore query failures -p model=demo -p limit=5
    """
    from clipstore.pipeline.query import list_queries, run_query
    from clipstore.reporting.tables import print_rows

    table = run_query(store, name, parameters) if name else list_queries()
    print_rows(table, "json" if as_json else form)
