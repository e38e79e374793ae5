"""`clipstore info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@store_option
@json_option
def info(store: Store, *, as_json: bool) -> None:
    """Show a store's contents, disk use and versions.

    Shared shards are counted for every model that uses them; own_shard_bytes counts those of one model only.

    Example: clipstore info --json
    """
    from clipstore.pipeline.info import store_info
    from clipstore.reporting.tables import print_json, print_table

    result = store_info(store)
    if as_json:
        print_json(result)
        return
    if result["store"]:
        echo(f"store {result['store']}, format {result['format']}, shards in {result['shards_in']}")
        print_table([{"what": key, "count": value} for key, value in result["counts"].items()])
        print_table([{"folder": key, "bytes": value} for key, value in result["bytes"].items()])
        print_table(result["models"], empty="no models yet")
    else:
        echo(f"no store at {result['folder']}: start with 'clipstore ingest', or name another store with --store")
    echo(", ".join(f"{name} {version}" for name, version in result["versions"].items()))
    echo(result["platform"])
