"""`clipstore hubness`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore.cli.options import json_option, memory_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option(
    "--model", "models", multiple=True, help="The model; may be repeated. [default: all whose vectors are complete]"
)
@click.option("--split", required=True, help="The split to rank, such as coco/val2017.")
@click.option("--bank", help="A split, best that of the training, whose captions and images are the bank of queries.")
@click.option("--beta", default=20.0, show_default=True, help="How sharply the bank's scores count.")
@memory_option("Memory budget for ranking, beside what the program itself needs.")
@click.option("--device", default="cpu", show_default=True, help="Where the products run, such as cuda.")
@store_option
@json_option
def hubness(models: tuple[str, ...], split: str, store: Store, *, as_json: bool, **how: Any) -> None:
    """Measure how unevenly items are retrieved.

    With a bank of other queries, also what a correction of it changes. The correction is query-bank
    normalisation (Bogolin et al., 2022), as inverted softmax and in its dynamic form. It is an
    analysis: nothing is kept, and the numbers of 'clipstore eval' stay as they are.

    Example: clipstore hubness --model full --split full/val --bank full/train
    """
    from clipstore.pipeline import hubness as verb
    from clipstore.reporting.metrics import print_hubness
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        told, skipped = verb.hubness(store, models, split, verb.HubnessOptions(**how, on_progress=on_progress))
        for one in skipped:
            on_progress.print_line(f"skipped {one['model']}: {one['reason']}")
    if as_json:
        print_json({"hubness": told, "skipped": skipped})
    else:
        print_hubness(told)
