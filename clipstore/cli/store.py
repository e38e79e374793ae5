"""`clipstore store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group(name="store")
def store_group() -> None:
    """Create a store, with its shards on object storage.

    Example: clipstore store init --shards s3://bucket/prefix
    """


@store_group.command()
@click.option(
    "--shards", metavar="URL", help="Where the shards are: s3://BUCKET/PREFIX or gs://… [default: in the store]"
)
@store_option
@json_option
def init(store: Store, *, shards: str | None, as_json: bool) -> None:
    """Create a store, or set where its shards will be.

    Other commands create a store with its shards in the store's folder. On object storage each shard is one
    object; the catalog stays in the folder. A store that has shards keeps their place.

    Example: clipstore store init --shards s3://bucket/prefix
    """
    from clipstore.pipeline.init_store import init_store
    from clipstore.reporting.tables import print_json

    result = init_store(store, shards)
    if as_json:
        print_json(result)
    else:
        echo(f"store {result['store']}, id {result['id']}")
        echo(f"shards in {result['shards'] or store.shards}")
