"""`clipstore retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import NonEmptyPath, json_option, memory_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command(cls=ModelCommand)
@click.argument("image_or_text", nargs=-1)
@click.option("--text", "texts", multiple=True, help="A text query that could be read as a path; may be repeated.")
@click.option("--model", "models", multiple=True, required=True, help="The model; may be repeated.")
@click.option("--split", required=True, help="The split to search, such as coco/val2017.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Number of hits per query.")
@click.option("--allow-network", is_flag=True, help="Download images from http and https addresses.")
@click.option("--allow-private-addresses", is_flag=True, help="Download from private and loopback addresses, too.")
@click.option("--panel", type=NonEmptyPath(dir_okay=False), help="Also draw queries and hits into this PNG file.")
@click.option("--partial", is_flag=True, help="Search only the items embedded so far (the result is marked partial).")
@memory_option("Memory budget for the model on its device, and for ranking.")
@click.option("--device", help="Device for the model and the ranking. [default: cuda if available, else cpu]")
@store_option
@json_option
def retrieve(
    image_or_text: tuple[str, ...],
    texts: tuple[str, ...],
    models: tuple[str, ...],
    split: str,
    panel: Path | None,
    store: Store,
    *,
    allow_network: bool,
    allow_private_addresses: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Search a split with images and texts.

    An image (a file, a folder of files, or a web address with --allow-network) retrieves captions. Any
    other argument is a text and retrieves images. The ranking is exact and uses the stored vectors; equal
    scores are in the order of the split. If the query image is in the split, or the text is a caption of
    it, right hits are marked. Unreadable inputs are reported and skipped.

    \b
    Example: clipstore retrieve image.jpg "a dog on a beach" --model demo
             --model demo-full --split scenes/val --panel hits.png
    """
    from clipstore.pipeline.retrieve.download import DownloadRules, is_any, is_public
    from clipstore.pipeline.retrieve.options import RetrieveOptions
    from clipstore.pipeline.retrieve.queries import parse_queries
    from clipstore.pipeline.retrieve.run import retrieve as run_retrieve
    from clipstore.reporting.panel import write_panel
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.retrieval import print_retrieval, retrieval_notes, skipped_notes
    from clipstore.reporting.tables import print_json

    queries = parse_queries(image_or_text, texts, allow_network=allow_network)
    with progress_display() as progress:
        downloads = DownloadRules(permits=is_any if allow_private_addresses else is_public)
        settings = RetrieveOptions(**options, downloads=downloads, thumbnails=bool(panel), on_progress=progress)
        retrieval = run_retrieve(store, queries, models, split, settings)
        for line in skipped_notes(retrieval.result):
            progress.print_line(line)
    if as_json:
        print_json(retrieval.result)
    else:
        print_retrieval(retrieval.result)
    if panel:
        write_panel(panel, retrieval.result, retrieval.thumbnails, retrieval_notes(retrieval.result))
        if not as_json:
            echo(f"panel written to {panel}")
