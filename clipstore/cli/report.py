"""`clipstore report`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.options import NonEmptyPath, json_option, store_option
from clipstore.cli.output import echo
from clipstore.protocols import PROTOCOLS

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--split", "splits", multiple=True, help="The split; may be repeated. [default: all with evaluations]")
@click.option("--model", "models", multiple=True, help="The model, the baseline first; may be repeated. [default: all]")
@click.option(
    "--out",
    type=NonEmptyPath(dir_okay=False),
    help="The file. [default: reports/report.html in the store]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "tex"]),
    default="html",
    show_default=True,
    help="md, tex: only the metric tables and comparisons, for papers; printed unless --out names a file.",
)
@click.option(
    "--thumbnails",
    type=click.Choice(choices.THUMBNAILS),
    help="Thumbnails in the page, or in a folder next to it. [default: inline up to 5,000 images]",
)
@click.option(
    "--map",
    type=click.Choice(choices.MAPS),
    default="umap",
    show_default=True,
    help="Projection of each model's vectors; umap and tsne need the extra clipstore[map].",
)
@click.option(
    "--protocol",
    type=click.Choice(list(PROTOCOLS)),
    default="standard",
    show_default=True,
    help="Protocol of the sections below the metric tables.",
)
@click.option("--captions", type=click.Choice(choices.CAPTIONS), help="Caption set to report when both were evaluated.")
@click.option("--unseen", is_flag=True, help="Use the evaluations restricted to unseen images.")
@store_option
@json_option
def report(store: Store, form: str, *, as_json: bool, **options: Any) -> None:
    """Write evaluations into one HTML page, or tables for papers.

    The page opens offline. It has the metrics, reranked ones included, their comparison, failures by category,
    caption length and kind, a gallery of failures, fixes and regressions, a map of the embeddings, hard negatives,
    zero-shot classification, training, and statistics of the dataset. Each section shows the query that produces
    its numbers.

    Example: clipstore report --split coco/val2017 --model pretrained --model full
    """
    from clipstore.pipeline.report import run
    from clipstore.pipeline.report.options import ReportOptions
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    if form != "html":
        settings = ReportOptions(**options)
        text = run.paper_tables(store, settings, form)
        if as_json:
            print_json({"file": settings.out, "text": text})
        else:
            echo(str(settings.out or text), nl=bool(settings.out))
        return
    with progress_display() as progress:
        result = run.report(store, ReportOptions(**options, on_progress=progress))
    if as_json:
        print_json(result)
        return
    echo(f"{result['file']} ({result['bytes'] / 1e6:.1f} MB): open it in a browser")
    if result["missing_photos"]:
        echo(f"{result['missing_photos']:,} image files are missing or unreadable and have a placeholder")
