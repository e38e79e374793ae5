"""`clipstore query`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import access_options, format_option, json_option, safe_csv_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.argument("name", required=False)
@click.option("-p", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the query; may be repeated.")
@format_option
@safe_csv_option(default=False)
@json_option
@access_options
@store_option
def query(
    name: str | None,
    parameters: tuple[str, ...],
    form: str,
    store: Store,
    *,
    safe_csv: bool,
    as_json: bool,
    **access: bool,
) -> None:
    """Run a named query; without NAME, list them.

    Example: clipstore query failures -p model=demo -p limit=5
    """
    from clipstore.pipeline.query import list_queries, run_query
    from clipstore.reporting.tables import print_rows

    table = run_query(store, name, parameters, **access) if name else list_queries()
    print_rows(table, "json" if as_json else form, safe_csv=safe_csv)
