"""`clipstore register`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import NonEmptyPath, failures_option, json_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.argument("plans", type=NonEmptyPath(file_okay=False))
@failures_option
@store_option
@json_option
def register(plans: Path, allow_failures: int, store: Store, *, as_json: bool) -> None:
    """Verify and register the shards of encoded plans.

    PLANS is a folder that 'clipstore plan' wrote. Lists the plans that were not encoded yet. Run it at any time,
    and again: what is registered is not read again.

    Example: clipstore register plans
    """
    from clipstore.pipeline.plans.register import check_problems, register_plans
    from clipstore.reporting.plans import registered_notes, registered_rows
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json, print_table

    with progress_display() as on_progress:
        result = register_plans(store, plans.absolute(), on_progress)
    if as_json:
        print_json(asdict(result))
    else:
        print_table(registered_rows(asdict(result)))
        for line in registered_notes(asdict(result)):
            echo(line)
    check_problems(result, plans, allowed=allow_failures)
