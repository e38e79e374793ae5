"""`clipstore verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--repair", is_flag=True, help="Move damaged shards to quarantine/ and unregister them.")
@store_option
@json_option
def verify(store: Store, *, repair: bool, as_json: bool) -> None:
    """Check every shard, adapter and table of a store.

    Reads every shard once. Damage is named with the shard, its rows and their items. After --repair, the next
    'clipstore embed' computes exactly what is missing again; imported vectors have to be imported again.
    Exits with 1 if there is a problem that is not repaired.

    Example: clipstore verify --repair
    """
    from clipstore.pipeline.verify.run import check_sound
    from clipstore.pipeline.verify.run import verify as verify_store
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.verification import print_verification

    with progress_display() as on_progress:
        result = verify_store(store, repair=repair, on_progress=on_progress)
    if as_json:
        print_json(result)
    else:
        print_verification(result)
    check_sound(result)
