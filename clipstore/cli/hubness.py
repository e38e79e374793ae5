"""`clipstore hubness`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore.cli.options import json_option, memory_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option(
    "--model", "models", multiple=True, help="Model; may be repeated. [default: all whose vectors are complete]"
)
@click.option("--split", required=True, help="Split to rank, e.g. coco/val2017.")
@click.option("--bank", help="Split whose images and captions are the query bank, preferably the training split.")
@click.option("--beta", default=20.0, show_default=True, help="Inverse temperature of the query-bank softmax.")
@memory_option("Memory budget for ranking, in addition to the base process.")
@click.option("--device", default="cpu", show_default=True, help="Device for the matrix products, e.g. cuda.")
@store_option
@json_option
def hubness(models: tuple[str, ...], split: str, store: Store, *, as_json: bool, **options: Any) -> None:
    """Measure how unevenly items are retrieved.

    With a query bank, also the effect of query-bank normalisation (Bogolin et al., 2022), as inverted softmax
    and in its dynamic form. Nothing is stored, and the metrics of 'clipstore eval' are unchanged.

    Example: clipstore hubness --model full --split full/val --bank full/train
    """
    from clipstore.pipeline.hubness import HubnessOptions
    from clipstore.pipeline.hubness import hubness as measure_hubness
    from clipstore.reporting.metrics import print_hubness
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        results, skipped = measure_hubness(store, models, split, HubnessOptions(**options, on_progress=on_progress))
        for row in skipped:
            on_progress.print_line(f"skipped {row['model']}: {row['reason']}")
    if as_json:
        print_json({"hubness": results, "skipped": skipped})
    else:
        print_hubness(results)
