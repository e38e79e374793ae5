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
@click.option("--split", required=True, help="Split of the evaluations, e.g. coco/val2017.")
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="standard",
    show_default=True,
    help="Protocol of the evaluations.",
)
@click.option(
    "--captions",
    type=click.Choice(choices.CAPTIONS),
    help="Captions of the evaluations. [default: those of the latest evaluation]",
)
@click.option("--unseen", is_flag=True, help="Use the evaluations restricted to unseen images.")
@click.option(
    "--task",
    type=click.Choice(choices.TASKS),
    default="retrieval",
    show_default=True,
    help="What to compare: evaluations, or the latest results of 'clipstore zeroshot'.",
)
@store_option
@json_option
def compare(models: tuple[str, ...], split: str, store: Store, *, as_json: bool, **options: Any) -> None:
    """Compare models with the first (baseline), query by query.

    Reads their stored evaluations. For every metric it prints the difference with a confidence interval and
    whether it is statistically significant, both clustered by image, and how many queries were fixed and
    broken; 'clipstore query changes' lists these. A reranked evaluation is named FIRST+RERANKER, for example
    pretrained+blip,top=128.

    Example: clipstore compare pretrained full --split coco/val2017
    """
    from clipstore.pipeline.compare import CompareOptions
    from clipstore.pipeline.compare import compare as compare_models
    from clipstore.reporting.comparison import print_comparison
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.zeroshot import print_class_comparison

    comparison = compare_models(store, models, split, CompareOptions(**options))
    if as_json:
        print_json(comparison)
    elif options["task"] == "zeroshot":
        print_class_comparison(comparison)
    else:
        print_comparison(comparison)
