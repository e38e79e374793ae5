"""`clipstore info`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@store_option
@json_option
def info(store: Store, *, as_json: bool) -> None:
    """Show a store's contents, disk use and versions.

    Shards that models share count for each of them; own_shard_bytes are those of one model alone.

    Example: clipstore info --json
    """
    from clipstore.pipeline.info import store_info
    from clipstore.reporting.tables import print_json, print_table

    found = store_info(store)
    if as_json:
        print_json(found)
        return
    if found["store"]:
        click.echo(f"store {found['store']}, format {found['format']}")
        print_table([{"what": key, "count": value} for key, value in found["counts"].items()])
        print_table([{"folder": key, "bytes": value} for key, value in found["bytes"].items()])
        print_table(found["models"], empty="no models yet")
    else:
        click.echo(f"no store at {found['folder']}: begin with 'clipstore ingest', or name another with --store")
    click.echo(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    click.echo(found["platform"])
