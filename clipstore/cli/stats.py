"""`clipstore stats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--split", required=True, help="The split, such as coco/train2014.")
@click.option(
    "--plots", type=click.Path(dir_okay=False, path_type=Path), help="Draw them too, into this HTML file (no network)."
)
@store_option
@json_option
def stats(split: str, plots: Path | None, store: Store, *, as_json: bool) -> None:
    """Count a split's captions, words, repeats and categories.

    Words are cut at white space, in lower case. A caption is repeated when its exact text stood before.

    Example: clipstore stats --split coco/train2014 --plots stats.html
    """
    from clipstore.pipeline.stats import split_stats
    from clipstore.reporting.stats import print_stats
    from clipstore.reporting.tables import print_json

    told = split_stats(store, split)
    if plots:
        from clipstore.reporting.plots import write_stats

        write_stats(plots, told)
    if as_json:
        print_json(told)
        return
    print_stats(told)
    if plots:
        click.echo(f"drawn in {plots}")
