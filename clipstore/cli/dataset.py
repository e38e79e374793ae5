"""`clipstore dataset`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.cli.removal import confirmed, yes_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group()
def dataset() -> None:
    """List or remove the data sets of a store.

    Example: clipstore dataset list
    """


@dataset.command("list")
@store_option
@json_option
def list_datasets(store: Store, *, as_json: bool) -> None:
    """List the data sets, with where each came from.

    Example: clipstore dataset list
    """
    from clipstore.pipeline.removal import list_datasets as verb
    from clipstore.reporting.tables import print_json, print_table

    rows = verb(store)
    if as_json:
        print_json({"datasets": rows})
    else:
        print_table(rows, empty="no data sets")


@dataset.command("remove")
@click.argument("name")
@yes_option
@store_option
@json_option
def remove(name: str, store: Store, *, yes: bool, as_json: bool) -> None:
    """Remove a data set with its splits and evaluations.

    Its images, captions and categories go, all of its splits (those drawn from it too), and the evaluations
    on them. Its files stay where they are, and its vectors in the shards: ingested again, it needs no
    embedding. What a model was trained on stays known.

    Example: clipstore dataset remove flickr8k --yes
    """
    from clipstore.pipeline.removal import remove_dataset

    confirmed(lambda trial: remove_dataset(store, name, dry_run=trial), yes=yes, as_json=as_json)
