"""`clipstore report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.options import json_option, store_option
from clipstore.protocols import PROTOCOLS

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--split", "splits", multiple=True, help="The split; may be repeated. [default: all that were measured]")
@click.option("--model", "models", multiple=True, help="The model, the baseline first; may be repeated. [default: all]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file. [default: reports/report.html in the store]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "tex"]),
    default="html",
    show_default=True,
    help="md, tex: the metric tables and comparisons alone, for papers; printed where --out names no file.",
)
@click.option(
    "--thumbnails",
    type=click.Choice(choices.THUMBNAILS),
    help="Photos in the page itself, or in a folder beside it. [default: inline up to 5,000 photos]",
)
@click.option(
    "--map",
    type=click.Choice(choices.MAPS),
    default="umap",
    show_default=True,
    help="How each model's vectors are laid out in a plane; the first two need the extra clipstore[map].",
)
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="standard",
    show_default=True,
    help="The protocol that the sections below the metric tables are about.",
)
@click.option("--captions", type=click.Choice(choices.CAPTIONS), help="Where both were measured: which count.")
@click.option("--unseen", is_flag=True, help="The evaluations that asked with unseen images alone.")
@store_option
@json_option
def report(store: Store, form: str, *, as_json: bool, **how: Any) -> None:
    """Write what was measured into one HTML file.

    It opens from disk, without a network. Metrics, their comparison, where and why queries fail, a
    gallery of failures, fixes and regressions, a map of the embeddings, training, and the data set.
    Beside every section stands the query that gives its numbers.

    Example: clipstore report --split coco/val2017 --model pretrained --model full
    """
    from clipstore.pipeline.report import run as verb
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    if form != "html":
        text = verb.tables(store, verb.ReportOptions(**how), form)
        if as_json:
            print_json({"file": how["out"], "text": text})
        else:
            click.echo(how["out"] or text, nl=bool(how["out"]))
        return
    with progress_display() as on_progress:
        told = verb.report(store, verb.ReportOptions(**how, on_progress=on_progress))
    if as_json:
        print_json(told)
        return
    click.echo(f"{told['file']} ({told['bytes'] / 1e6:.1f} MB): open it in a browser")
    if told["missing_photos"]:
        click.echo(f"{told['missing_photos']:,} photos are gone or cannot be read: a placeholder stands for each")
