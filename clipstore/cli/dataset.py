"""`clipstore dataset`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group()
def dataset() -> None:
    """List or remove the datasets of a store.

    Example: clipstore dataset list
    """


@dataset.command("list")
@store_option
@json_option
def list_datasets(store: Store, *, as_json: bool) -> None:
    """List the datasets and their sources.

    Example: clipstore dataset list
    """
    from clipstore.reporting.tables import print_json, print_table
    from clipstore.store.datasets import list_datasets as run

    rows = run(store)
    if as_json:
        print_json({"datasets": rows})
    else:
        print_table(rows, empty="no datasets")


@dataset.command("remove")
@click.argument("name")
@yes_option
@store_option
@json_option
def remove(name: str, store: Store, *, yes: bool, as_json: bool) -> None:
    """Remove a dataset with its splits and evaluations.

    Removes its images, captions and categories, all of its splits (including those drawn from it), and the
    evaluations on them. Its files remain, and so do its vectors: after another ingest it needs no embedding.
    The record of what a model was trained on remains too.

    Example: clipstore dataset remove flickr8k --yes
    """
    from clipstore.pipeline.removal import remove_dataset

    remove_confirmed(lambda dry_run: remove_dataset(store, name, dry_run=dry_run), yes=yes, as_json=as_json)
