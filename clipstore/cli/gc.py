"""`clipstore gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--delete", is_flag=True, help="Remove the files. [default: only list them]")
@store_option
@json_option
def gc(store: Store, *, delete: bool, as_json: bool) -> None:
    """Find, and with --delete remove, unused shards.

    These are shards of fingerprints that no model has (after 'model remove', or when a model changed),
    shards that a later import replaced, shard files that are not registered in the catalog, and temporary
    files of processes that have ended. Only files in the store's folder shards/ are removed, and none while
    another process embeds or imports.

    Example: clipstore gc --delete
    """
    from clipstore.pipeline.gc import collect_garbage
    from clipstore.reporting.tables import print_json, print_table

    result = collect_garbage(store, delete=delete)
    if as_json:
        print_json(result)
        return
    keys = ("kind", "files", "rows", "bytes", "what")
    print_table([{key: row[key] for key in keys} for row in result["kinds"]])
    size = f"{result['bytes']:,} bytes"
    echo(f"{size} removed" if delete else f"{size} can be removed with 'clipstore gc --delete'")
