"""`clipstore compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.options import json_option, store_option
from clipstore.protocols import PROTOCOLS

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL...")
@click.option("--split", required=True, help="The split that all were evaluated on, such as coco/val2017.")
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="standard",
    show_default=True,
    help="The protocol of the evaluations.",
)
@click.option(
    "--captions", type=click.Choice(choices.CAPTIONS), help="Their captions. [default: those of the last evaluation]"
)
@click.option("--unseen", is_flag=True, help="Evaluations that asked with unseen images alone.")
@store_option
@json_option
def compare(models: tuple[str, ...], split: str, store: Store, *, as_json: bool, **which: Any) -> None:
    """Compare models with the first, query by query.

    From their evaluations in the store. Says of every metric whether the difference may be luck (an
    interval, and a test, over images), and how many queries were fixed and broken; 'clipstore query
    changes' lists those.

    Example: clipstore compare pretrained full --split coco/val2017
    """
    from clipstore.pipeline import compare as verb
    from clipstore.reporting.comparison import print_comparison
    from clipstore.reporting.tables import print_json

    comparison = verb.compare(store, models, split, verb.CompareOptions(**which))
    if as_json:
        print_json(comparison)
    else:
        print_comparison(comparison)
