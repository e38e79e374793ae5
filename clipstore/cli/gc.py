"""`clipstore gc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--delete", is_flag=True, help="Remove it; without this, only say what would be removed.")
@store_option
@json_option
def gc(store: Store, *, delete: bool, as_json: bool) -> None:
    """Find, and with --delete remove, shards nothing needs.

    These are shards of fingerprints that no model has (after 'model remove', or when a model changed),
    shards that a later import replaced, shard files that the catalog does not know, and temporary files
    of processes that have ended. Nothing outside the store's folder shards/ is touched. While another
    process embeds or imports, nothing is removed.

    Example: clipstore gc --delete
    """
    from clipstore.pipeline.gc import collect_garbage
    from clipstore.reporting.tables import print_json, print_table

    found = collect_garbage(store, delete=delete)
    if as_json:
        print_json(found)
        return
    keys = ("kind", "files", "rows", "bytes", "what")
    print_table([{key: row[key] for key in keys} for row in found["kinds"]])
    size = f"{found['bytes']:,} bytes"
    click.echo(f"{size} removed" if delete else f"{size} can be removed with 'clipstore gc --delete'")
