"""`clipstore catalog`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import echo
from clipstore.errors import FailedItemsError

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group()
def catalog() -> None:
    """Rebuild the catalog of the store.

    Example: clipstore catalog rebuild --evaluate
    """


@catalog.command()
@click.option("--evaluate", is_flag=True, help="Run the evaluations again too. [default: only list them]")
@store_option
@json_option
def rebuild(store: Store, *, evaluate: bool, as_json: bool) -> None:
    """Make a damaged or missing catalog again.

    It is made from the store's records, the sources of the datasets (captions, categories) and the shards
    (vectors, failures), and replaces the present file when it is complete; that is kept as
    catalog.duckdb.damaged-N. Exits with 3 if a shard is damaged, a source has changed or an evaluation
    could not be repeated; the output names each.

    Example: clipstore catalog rebuild --evaluate
    """
    from clipstore.pipeline.rebuild.run import rebuild_catalog
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        result = rebuild_catalog(store, evaluate_again=evaluate, on_progress=on_progress)
    if as_json:
        print_json(result.row())
    else:
        for line in result.lines():
            echo(line)
    if not result.complete:
        sys.exit(FailedItemsError.exit_code)
