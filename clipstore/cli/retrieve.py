"""`clipstore retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipstore.cli.options import json_option, memory_option, store_option
from clipstore.process import retain_freed_memory

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.argument("image_or_text", nargs=-1)
@click.option("--text", "sentences", multiple=True, help="A sentence that could be taken for a path; may be repeated.")
@click.option("--model", "models", multiple=True, required=True, help="The model; may be repeated.")
@click.option("--split", required=True, help="The split to look in, such as coco/val2017.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many hits of each query.")
@click.option("--allow-network", is_flag=True, help="Fetch photos from http and https addresses.")
@click.option(
    "--panel", type=click.Path(dir_okay=False, path_type=Path), help="Draw queries and hits too, into this PNG file."
)
@click.option("--partial", is_flag=True, help="Look in what is embedded so far, and say so.")
@memory_option("What the model may take on its device, and what the ranking may take.")
@click.option("--device", help="Where the model and the products run. [default: cuda where there is one, else cpu]")
@store_option
@json_option
def retrieve(
    image_or_text: tuple[str, ...],
    sentences: tuple[str, ...],
    models: tuple[str, ...],
    split: str,
    panel: Path | None,
    store: Store,
    *,
    allow_network: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Show what models retrieve for photos and sentences.

    A photo (a path, a folder of them, an address with --allow-network) finds captions; anything else is
    a sentence, and finds images. Ranked exactly by the stored vectors; equal scores stand in the
    split's order. Where the photo itself is in the split, or the sentence is a caption of it, the
    right answers are marked. What cannot be read is told, and the rest goes on.

    \b
    Example: clipstore retrieve photo.jpg "a dog on a beach" --model demo --model demo-full
             --split scenes/val --panel found.png
    """
    from clipstore.pipeline.retrieve.queries import queries
    from clipstore.pipeline.retrieve.run import RetrieveOptions
    from clipstore.pipeline.retrieve.run import retrieve as verb
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.retrieval import print_retrieval, retrieval_notes
    from clipstore.reporting.tables import print_json

    retain_freed_memory()
    asked = queries(image_or_text, sentences, allow_network=allow_network)
    with progress_display() as shown:
        options = RetrieveOptions(**how, pictures=bool(panel), on_progress=shown)
        found = verb(store, asked, models, split, options)
        for failure in found.told["failures"]:
            shown.print_line(f"{failure['query']}: not asked of {', '.join(failure['models'])}: {failure['reason']}")
        for query in found.told["queries"]:
            models_cut = [answer["model"] for answer in query["answers"] if answer["cut"]]
            if models_cut:
                shown.print_line(
                    f"longer than {', '.join(models_cut)} reads, only its beginning was searched for: {query['query']}"
                )
    if as_json:
        print_json(found.told)
    else:
        print_retrieval(found.told)
    if panel:
        from clipstore.reporting.panel import write_panel

        write_panel(panel, found.told, found.pictures, retrieval_notes(found.told))
        if not as_json:
            click.echo(f"drawn in {panel}")
