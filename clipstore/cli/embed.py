"""`clipstore embed`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.options import json_option, memory_option, store_option
from clipstore.process import retain_freed_memory

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command()
@click.option("--model", "models", multiple=True, required=True, help="The model; may be repeated.")
@click.option("--split", "splits", multiple=True, help="A split; may be repeated. [default: the whole catalog]")
@click.option("--only", type=click.Choice(choices.ITEM_KINDS), help="One tower alone.")
@click.option(
    "--precision",
    type=click.Choice(choices.PRECISIONS),
    default="auto",
    show_default=True,
    help="What the model computes in. auto: as the model, or one of the same base, was embedded before; else fp16 on "
    "CUDA, bf16 on processors that multiply it natively, fp32 elsewhere.",
)
@click.option(
    "--store-dtype",
    type=click.Choice(choices.STORED_TYPES),
    default="float32",
    show_default=True,
    help="What new vectors are stored as; those that are there stay as they are.",
)
@memory_option("What the model may take on its device; batches are made smaller to fit.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    help="Where the model runs, such as cuda:1; several, a process each. [default: cuda where there is one, else cpu]",
)
@click.option("--compile", "compiled", is_flag=True, help="Have torch compile the model first: minutes, then faster.")
@click.option("--retry-failed", is_flag=True, help="Try items that failed before once more.")
@click.option(
    "--max-failed",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="The share of items that may fail or be missing; past it, exit with 1 when all is done. [default: all may]",
)
@click.option("--dry-run", is_flag=True, help="Say how many items, bytes and seconds, and write no vectors.")
@store_option
@json_option
def embed(models: tuple[str, ...], max_failed: float, store: Store, *, as_json: bool, **how: Any) -> None:
    """Embed the images and captions that have no vectors yet.

    Safe to interrupt: run the same command again to resume. A photo that cannot be read stops nothing:
    it is recorded with its reason ('clipstore query item_failures').

    Example: clipstore embed --model pretrained --split coco/val2017
    """
    from clipstore.pipeline.embed import run as verb
    from clipstore.pipeline.embed.summary import check_failures
    from clipstore.reporting.embedding import summary_notes, summary_rows
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json, print_table

    retain_freed_memory()
    with progress_display() as on_progress:
        summaries = verb.embed(store, models, verb.EmbedOptions(**how, on_progress=on_progress))
    rows = [dataclasses.asdict(summary) for summary in summaries]
    if as_json:
        print_json({"embedded": rows})
    else:
        print_table(summary_rows(rows, dry_run=how["dry_run"]))
        for line in summary_notes(rows):
            click.echo(line)
    check_failures(summaries, max_failed)
