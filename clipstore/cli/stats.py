"""`clipstore stats`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import NonEmptyPath, json_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--split", required=True, help="The split, such as coco/train2014.")
@click.option(
    "--plots",
    type=NonEmptyPath(dir_okay=False),
    help="Also draw plots into this HTML file (opens offline).",
)
@store_option
@json_option
def stats(split: str, plots: Path | None, store: Store, *, as_json: bool) -> None:
    """Summarise a split's captions, words and categories.

    Words are split at whitespace, in lower case. A caption is repeated if an earlier one has the same text.

    Example: clipstore stats --split coco/train2014 --plots stats.html
    """
    from clipstore.pipeline.stats import split_stats
    from clipstore.reporting.stats import print_stats
    from clipstore.reporting.tables import print_json

    result = split_stats(store, split)
    if plots:
        from clipstore.reporting.plots import write_stats

        write_stats(plots, result)
    if as_json:
        print_json(result)
        return
    print_stats(result)
    if plots:
        echo(f"plots written to {plots}")
