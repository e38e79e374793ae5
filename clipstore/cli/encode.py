"""`clipstore encode`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import NonEmptyPath, json_option
from clipstore.cli.output import echo


@click.command(cls=ModelCommand)
@click.argument("plans", nargs=-1, required=True, type=NonEmptyPath())
@click.option(
    "--task", type=click.IntRange(0), default=0, show_default=True, help="Number of this task of an array, from 0."
)
@click.option(
    "--tasks", type=click.IntRange(1), default=1, show_default=True, help="Number of tasks that share the plans."
)
@click.option("--device", metavar="DEVICE", help="Device, e.g. cuda:1. [default: cuda if available, else cpu]")
@click.option(
    "--store",
    "root",
    type=NonEmptyPath(exists=True, file_okay=False),
    help="The folder of the store as this machine sees it. [default: as in the plans]",
)
@json_option
def encode(
    plans: tuple[Path, ...], *, task: int, tasks: int, device: str | None, root: Path | None, as_json: bool
) -> None:
    """Encode plan files into shards, without the catalog.

    PLANS are folders that 'clipstore plan' wrote, or files in them. Plans that are complete are skipped, also
    those that another process is encoding. Safe to interrupt, and to run several times at once.

    Example: clipstore encode plans --task 3 --tasks 8
    """
    from clipstore.inference.encode_plans import EncodeOptions, encode_plans, select_plans
    from clipstore.reporting.plans import encoded_rows
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json, print_table

    files = select_plans(plans, task=task, tasks=tasks)
    with progress_display() as on_progress:
        options = EncodeOptions(root=root and root.absolute(), device=device, on_progress=on_progress)
        rows = [asdict(result) for result in encode_plans(files, options)]
    if as_json:
        print_json({"encoded": rows})
        return
    print_table(encoded_rows(rows))
    if any(row["failed"] for row in rows):
        echo("failed items are in the shards with their reasons; 'clipstore register' records them")
