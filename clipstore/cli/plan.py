"""`clipstore plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.options import NonEmptyPath, json_option, memory_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--model", "models", multiple=True, required=True, help="Model to embed; may be repeated.")
@click.option("--split", "splits", multiple=True, help="Split to embed; may be repeated. [default: the whole catalog]")
@click.option("--out", type=NonEmptyPath(file_okay=False), required=True, help="Folder for the plan files.")
@click.option("--only", type=click.Choice(choices.ITEM_KINDS), help="Plan only images or only captions.")
@click.option(
    "--precision",
    type=click.Choice(choices.PRECISIONS),
    default="auto",
    show_default=True,
    help="Precision of the computation. auto: as 'clipstore embed' chooses on this machine.",
)
@click.option(
    "--store-dtype",
    type=click.Choice(choices.STORED_TYPES),
    default="float32",
    show_default=True,
    help="Data type of the vectors.",
)
@click.option(
    "--items",
    type=click.IntRange(1),
    help="Largest number of items of a plan, and of its shard. [default: 1,024 images, 8,192 captions]",
)
@memory_option("Device memory budget of an encoding process; the batch size is reduced to fit.")
@click.option(
    "--device",
    metavar="DEVICE",
    help="Device on which a few items are encoded to check the model. [default: cuda if available, else cpu]",
)
@click.option("--retry-failed", is_flag=True, help="Plan items again that failed in an earlier run.")
@store_option
@json_option
def plan(
    models: tuple[str, ...],
    out: Path,
    store: Store,
    *,
    items: int | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write what 'clipstore embed' would encode as plan files.

    'clipstore encode' encodes them on any machine that sees the store and the images, without the catalog;
    'clipstore register' enters the results. Planning the same again gives the same files.

    Example: clipstore plan --model pretrained --split coco/val2017 --out plans
    """
    from clipstore.pipeline.embed.options import EmbedOptions
    from clipstore.pipeline.plans.write import write_plans
    from clipstore.reporting.plans import planned_notes, planned_rows
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json, print_table

    with progress_display() as on_progress:
        embed_options = EmbedOptions(**options, devices=(device,) if device else (), on_progress=on_progress)
        written = write_plans(store, models, out.absolute(), embed_options, items=items)
    if as_json:
        print_json(written.row())
        return
    print_table(planned_rows(written.row()["planned"]))
    for line in planned_notes(written.row()):
        echo(line)
