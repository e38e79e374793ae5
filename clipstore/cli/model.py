"""`clipstore model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import print_warning

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group()
def model() -> None:
    """List, show and record models.

    A name is a job file ./jobs/NAME.toml, else a packaged job, else what 'model add' recorded. A name that
    a job and a recorded model give to different things is refused by every command.

    Example: clipstore model list
    """


@model.command("add")
@click.argument("name")
@click.option("--base", required=True, help="A hub id, a local folder, or bundled:demo.")
@click.option("--family", default="clip", show_default=True, help="The family of the model.")
@click.option("--adapter", help="A PEFT folder to put on the base.")
@click.option("--exif-orientation", is_flag=True, help="Turn images upright as their EXIF data says; CLIP does not.")
@store_option
@json_option
def add(
    name: str, base: str, family: str, adapter: str | None, store: Store, *, exif_orientation: bool, as_json: bool
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
        click.echo(f"{name}: this model is the job {shown['from']} already; nothing to record")
    else:
        click.echo(f"{name}: recorded; 'clipstore embed --model {name}' is next")


@model.command("trained")
@click.argument("name")
@click.option(
    "--split", "splits", multiple=True, required=True, help="A split that it was trained on; may be repeated."
)
@store_option
@json_option
def trained(name: str, splits: tuple[str, ...], store: Store, *, as_json: bool) -> None:
    """Record which splits a model was trained on.

    Each evaluation then says how many of its images the model has seen.

    Example: clipstore model trained tuned --split coco/train2014
    """
    from clipstore.reporting.tables import print_json
    from clipstore.store.model_records import record_training

    told = record_training(store, name, splits)
    if as_json:
        print_json(told)
    else:
        click.echo(
            f"{name}: trained on {told['training_images']:,} images of this store; evaluate again to have it said"
        )


@model.command("list")
@store_option
@json_option
def list_models(store: Store, *, as_json: bool) -> None:
    """List every model that can be named.

    Example: clipstore model list
    """
    from clipstore.reporting.tables import print_json, print_table
    from clipstore.store import models

    rows = models.list_models(store)
    if as_json:
        print_json({"models": rows})
    else:
        print_table(rows)


@model.command("show")
@click.argument("name")
@store_option
@json_option
def show(name: str, store: Store, *, as_json: bool) -> None:
    """Show a model and what the store holds of it.

    Example: clipstore model show demo
    """
    from clipstore.reporting.tables import cell, print_json, print_table
    from clipstore.store.models import show_model

    told = show_model(store, name)
    if as_json:
        print_json(told)
        return
    shown = {key: value for key, value in told.items() if key != "towers" and value is not None}
    width = max(map(len, shown))
    for key, value in shown.items():
        click.echo(f"{key:{width}} {cell(value)}")
    print_table(told["towers"], empty="not embedded yet")


@model.command("remove")
@click.argument("name")
@click.option("--adapter", is_flag=True, help="Remove STORE/adapters/NAME too: the weights that training left.")
@yes_option
@store_option
@json_option
def remove(name: str, store: Store, *, adapter: bool, yes: bool, as_json: bool) -> None:
    """Remove a model and its evaluations from the store.

    Its vectors stay until 'clipstore gc', its adapter without --adapter, and a job file of its name in any
    case. The name may be used again.

    Example: clipstore model remove tuned --yes
    """
    from clipstore.pipeline.removal import remove_model

    remove_confirmed(lambda trial: remove_model(store, name, adapter=adapter, dry_run=trial), yes=yes, as_json=as_json)
