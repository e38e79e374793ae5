"""`clipstore model`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import echo, print_warning
from clipstore.hints import embed_command
from clipstore.records import FAMILIES

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group()
def model() -> None:
    """List, show and record models.

    A name refers to the job file ./jobs/NAME.toml, else to a packaged job, else to a model that 'model add'
    recorded. It is an error if a job and a recorded model of one name differ.

    Example: clipstore model list
    """


@model.command("add")
@click.argument("name")
@click.option("--base", required=True, help="Hub id, local folder, or bundled:demo.")
@click.option("--family", help=f"{', '.join(FAMILIES)}. [default: recognised from the files]")
@click.option("--adapter", help="Folder of a PEFT adapter.")
@click.option("--exif-orientation", is_flag=True, help="Apply the EXIF orientation of images (ignored by default).")
@store_option
@json_option
def add(
    name: str,
    base: str,
    family: str | None,
    adapter: str | None,
    store: Store,
    *,
    exif_orientation: bool,
    as_json: bool,
) -> None:
    """Record a model under a name.

    Example: clipstore model add tuned --base openai/clip-vit-base-patch32 --adapter runs/tuned/best
    """
    from clipstore.reporting.tables import print_json
    from clipstore.store.model_records import add_model
    from clipstore.store.model_rows import ORIGINS
    from clipstore.store.models import show_model

    add_model(
        store,
        name,
        base=base,
        family=family,
        adapter=adapter,
        exif_orientation=exif_orientation,
        on_warning=print_warning,
    )
    shown = show_model(store, name)
    if as_json:
        print_json(shown)
    elif shown["from"] not in ORIGINS:
        echo(f"{name}: this model is the job {shown['from']}; nothing to record")
    else:
        echo(f"{name}: recorded; embed it with '{embed_command(name)}'")


@model.command("trained")
@click.argument("name")
@click.option("--split", "splits", multiple=True, required=True, help="Split that it was trained on; may be repeated.")
@store_option
@json_option
def trained(name: str, splits: tuple[str, ...], store: Store, *, as_json: bool) -> None:
    """Record a model's training splits.

    Evaluations then report how many of their images the model has seen.

    Example: clipstore model trained tuned --split coco/train2014
    """
    from clipstore.reporting.tables import print_json
    from clipstore.store.model_records import record_training

    result = record_training(store, name, splits)
    if as_json:
        print_json(result)
    else:
        echo(
            f"{name}: trained on {result['training_images']:,} images; run 'clipstore eval' again to include this in "
            "the results"
        )


@model.command("list")
@click.option("--split", help="Also print the metrics of the stored evaluations on this split.")
@store_option
@json_option
def list_models(split: str | None, store: Store, *, as_json: bool) -> None:
    """List all jobs and recorded models.

    Beside their definitions: parameters, input size, width, stored vectors, size on disk, and the models
    that share a tower.

    Example: clipstore model list --split coco/val2017
    """
    from clipstore.pipeline.models import model_table
    from clipstore.reporting.models import print_models
    from clipstore.reporting.tables import print_json

    rows = model_table(store, split)
    if as_json:
        print_json({"models": rows})
    else:
        print_models(rows, split)


@model.command("show")
@click.argument("name")
@click.option("--split", help="Also print what embedding this split will cost.")
@click.option("--measure", is_flag=True, help="With --split: load the model and measure the time.")
@click.option(
    "--store-dtype",
    type=click.Choice(choices.STORED_TYPES),
    default="float32",
    show_default=True,
    help="With --split: data type of the vectors.",
)
@store_option
@json_option
def show(name: str, split: str | None, store: Store, *, as_json: bool, **options: Any) -> None:
    """Show a model and its stored vectors.

    With --split it also prints the items that have no vectors yet and the size of their shards.

    Example: clipstore model show demo --split coco/val2017
    """
    from clipstore.pipeline.models import model_description
    from clipstore.reporting.models import print_model
    from clipstore.reporting.tables import print_json

    description = model_description(store, name, split, **options)
    if as_json:
        print_json(description)
    else:
        print_model(description)


@model.command("remove")
@click.argument("name")
@click.option("--adapter", is_flag=True, help="Also remove the trained weights in STORE/adapters/NAME.")
@yes_option
@store_option
@json_option
def remove(name: str, store: Store, *, adapter: bool, yes: bool, as_json: bool) -> None:
    """Remove a model and its evaluations from the store.

    Its vectors remain until 'clipstore gc' removes them. Its adapter remains unless --adapter is given. A job
    file of the same name is never removed. The name can be used again.

    Example: clipstore model remove tuned --yes
    """
    from clipstore.pipeline.removal import remove_model

    remove_confirmed(lambda trial: remove_model(store, name, adapter=adapter, dry_run=trial), yes=yes, as_json=as_json)
