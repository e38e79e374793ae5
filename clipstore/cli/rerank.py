"""`clipstore rerank`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import json_option, memory_option, store_option
from clipstore.cli.output import echo
from clipstore.hints import RERANK_TOP
from clipstore.protocols import PROTOCOLS, protocols_help

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command(cls=ModelCommand)
@click.option("--model", required=True, help="Model with a matching head, such as a BLIP.")
@click.option("--split", required=True, help="Split whose pairs are scored, e.g. coco/val2017.")
@click.option(
    "--first",
    metavar="MODEL",
    help="Model whose first candidates are scored. [default: the model itself, by its vectors]",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=RERANK_TOP,
    show_default=True,
    help="Candidates of each query, in both directions.",
)
@click.option(
    "--protocol", type=click.Choice(list(PROTOCOLS)), default="standard", show_default=True, help=protocols_help()
)
@click.option(
    "--captions",
    type=click.Choice(choices.CAPTIONS),
    help="Captions of each image in the gallery. [default: first5 for coco-1k, eccv and cxc, else all]",
)
@click.option(
    "--precision",
    type=click.Choice(choices.MATCHING_PRECISIONS),
    default="fp32",
    show_default=True,
    help="Precision of the computation.",
)
@memory_option("Device memory budget; the batch size is reduced to fit.")
@click.option("--device", help="Device, e.g. cuda:1. [default: cuda if available, else cpu]")
@store_option
@json_option
def rerank(model: str, split: str, store: Store, *, as_json: bool, **options: Any) -> None:
    """Score each query's first candidates by a matching head.

    The scores are stored; 'clipstore eval --rerank' ranks by them. Stored scores of equal pairs are reused
    for any first stage, protocol and split.
    Safe to interrupt: run the same command again to resume.

    Example: clipstore rerank --model blip --split coco/val2017 --first pretrained
    """
    from clipstore.pipeline.rerank.options import RerankOptions
    from clipstore.pipeline.rerank.run import rerank as score_pairs
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.reranking import scoring_lines
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        result = score_pairs(store, model, split, RerankOptions(**options, on_progress=on_progress))
    if as_json:
        print_json(result)
    else:
        for line in scoring_lines(result):
            echo(line)
