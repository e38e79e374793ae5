"""`clipstore split`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.groups import DefaultGroup
from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command("split")
@click.argument("name")
@click.option("--from", "origin", required=True, help="The split to draw from, such as coco/train2014.")
@click.option("--images", type=click.IntRange(min=2), help="Number of images to draw. [default: all]")
@click.option(
    "--validation",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="The share of the drawn images that goes into NAME/val.",
)
@click.option("--seed", default=42, show_default=True, help="The seed of the draw.")
@store_option
@json_option
def draw(
    name: str, origin: str, images: int | None, validation: float, seed: int, store: Store, *, as_json: bool
) -> None:
    """Draw NAME/train and NAME/val from a split.

    Images are drawn by seed, each with all its captions.

    Example: clipstore split 20k --from coco/train2014 --images 20000
    """
    from clipstore.pipeline.split import draw_split
    from clipstore.reporting.tables import print_json, print_table

    sizes = draw_split(store, name, origin=origin, images=images, validation=validation, seed=seed)
    if as_json:
        print_json({"splits": sizes})
    else:
        print_table(sizes)


split = DefaultGroup(draw)


@split.command("remove")
@click.argument("name", required=False, metavar="NAME")
@click.option("--from", "origin", hidden=True)
@yes_option
@store_option
@json_option
def remove(name: str | None, origin: str | None, store: Store, *, yes: bool, as_json: bool) -> None:
    """Remove a split, with its evaluations.

    NAME is a split of a dataset, such as coco/val2017, or a group of drawn splits, such as 20k. A split
    can be removed only after the splits drawn from it. Images in no other split are removed too.

    Example: clipstore split remove 20k --yes
    """
    from clipstore.pipeline.removal import remove_split

    if origin:
        raise click.UsageError("splits cannot be named 'remove', which is a command: choose another name")
    if not name:
        raise click.UsageError("Missing argument 'NAME'.")
    remove_confirmed(lambda dry_run: remove_split(store, name, dry_run=dry_run), yes=yes, as_json=as_json)
