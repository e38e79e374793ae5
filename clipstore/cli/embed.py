"""`clipstore embed`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import failures_option, json_option, memory_option, ray_options, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command(cls=ModelCommand)
@click.option("--model", "models", multiple=True, required=True, help="Model to embed; may be repeated.")
@click.option("--split", "splits", multiple=True, help="Split to embed; may be repeated. [default: the whole catalog]")
@click.option("--only", type=click.Choice(choices.ITEM_KINDS), help="Embed only images or only captions.")
@click.option(
    "--precision",
    type=click.Choice(choices.PRECISIONS),
    default="auto",
    show_default=True,
    help="Precision of the computation. auto: that of the model's vectors, or of another model with the same base; "
    "otherwise fp16 on CUDA, bf16 on CPUs with native bf16, else fp32.",
)
@click.option(
    "--store-dtype",
    type=click.Choice(choices.STORED_TYPES),
    default="float32",
    show_default=True,
    help="Data type of newly written vectors (existing shards are not converted).",
)
@memory_option("Device memory budget; the batch size is reduced to fit.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="Device, e.g. cuda:1; may be repeated: one process per device. [default: cuda if available, else cpu]",
)
@ray_options(
    "Embed on the nodes of the Ray cluster at this address, HOST:PORT or auto: one worker per GPU, or per node if "
    "there is none."
)
@click.option(
    "--compile", "compiled", is_flag=True, help="Run the model through torch.compile: minutes to start, then faster."
)
@click.option("--retry-failed", is_flag=True, help="Retry items that failed in an earlier run.")
@click.option(
    "--max-failed",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with 1, after embedding, if a larger share of a tower's items failed or is missing, and else with 0.",
)
@failures_option
@click.option(
    "--dry-run", is_flag=True, help="Print the number of items and the estimated size and time; write no vectors."
)
@store_option
@json_option
def embed(
    models: tuple[str, ...],
    max_failed: float | None,
    allow_failures: int,
    store: Store,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Embed the images and captions that have no vectors yet.

    Safe to interrupt: run the same command again to resume. Unreadable images do not stop the run: they are
    recorded with the reason ('clipstore query item_failures'), and the exit code is then 3, or 1 if no image
    or no caption has a vector.

    Example: clipstore embed --model pretrained --split coco/val2017
    """
    from clipstore.pipeline.embed import run as pipeline
    from clipstore.pipeline.embed.summary import check_failures
    from clipstore.reporting.embedding import summary_notes, summary_rows
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json, print_table

    with progress_display() as on_progress:
        summaries = pipeline.embed(store, models, pipeline.EmbedOptions(**options, on_progress=on_progress))
    rows = [dataclasses.asdict(summary) for summary in summaries]
    if as_json:
        print_json({"embedded": rows})
    else:
        print_table(summary_rows(rows, dry_run=options["dry_run"]))
        for line in summary_notes(rows):
            echo(line)
    if not options["dry_run"]:
        check_failures(summaries, share=max_failed, allowed=allow_failures)
