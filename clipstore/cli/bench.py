"""`clipstore bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.options import json_option, memory_option, store_option
from clipstore.process import retain_freed_memory

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.group()
def bench() -> None:
    """Measure this machine.

    Example: clipstore bench eval
    """


@bench.command("eval")
@click.option("--images", default=5000, show_default=True, type=click.IntRange(1), help="How many images.")
@click.option("--captions", default=25_000, show_default=True, type=click.IntRange(1), help="How many captions.")
@click.option("--dim", default=512, show_default=True, type=click.IntRange(2), help="The width of the vectors.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Turns; medians are printed.")
@click.option("--seed", default=0, show_default=True, help="Of the made vectors.")
@click.option(
    "--screen",
    type=click.Choice(choices.SCREENS),
    default="auto",
    show_default=True,
    help="The precision of the first pass; fp32 shows what a processor without bfloat16 takes.",
)
@memory_option("Memory budget for ranking, beside what the program itself needs.")
@click.option("--device", default="cpu", show_default=True, help="Where the products run, such as cuda.")
@json_option
def bench_eval(*, as_json: bool, **what: Any) -> None:
    """Time exact ranking beside bare float32 products.

    The vectors have the geometry of CLIP's on COCO and are read from shards. Every positive's rank in
    both directions and the top 10 hits are computed, exactly; the products alone compute nothing. Each turn
    also ranks once without comparing the shards with their checksums: what those cost is printed.

    Example: clipstore bench eval --images 40504 --captions 202654 --repeat 1
    """
    from clipstore.bench import evaluate as verb
    from clipstore.reporting.metrics import print_bench
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        told = verb.bench_eval(verb.BenchOptions(**what, on_progress=on_progress))
    if as_json:
        print_json(told)
    else:
        print_bench(told)


@bench.command("embed")
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="A split of the store whose photos and captions to take; may be repeated. [default: drawn ones]",
)
@click.option("--images", default=512, show_default=True, type=click.IntRange(1), help="At most so many images.")
@click.option("--captions", default=5000, show_default=True, type=click.IntRange(1), help="At most so many captions.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1), help="Turns; medians are printed.")
@click.option("--seed", default=0, show_default=True, help="Of the weights and the drawn photos.")
@click.option(
    "--precision",
    type=click.Choice(choices.PRECISIONS),
    default="auto",
    show_default=True,
    help="As of 'clipstore embed'.",
)
@memory_option("What the model may take on its device.")
@click.option("--device", help="Where the model runs, such as cuda:1. [default: cuda where there is one, else cpu]")
@click.option("--compile", "compiled", is_flag=True, help="Have torch compile the model first.")
@click.option(
    "--read-delay",
    default=0.0,
    type=click.FloatRange(0),
    help="Also embed with so many seconds of waiting for each photo, as on a network disk.",
)
@store_option
@json_option
def bench_embed(store: Store, *, as_json: bool, **what: Any) -> None:
    """Time embedding beside its parts.

    The model is a ViT-B/32 of random weights, its tokenizer trained on the captions (a few percent fewer
    tokens than CLIP's). Decoding alone, and the model alone on batches that
    are ready, are measured in the same run: share is what of their rates together embedding
    reaches.

    Example: clipstore bench embed --images 200 --captions 2000
    """
    from clipstore.bench import embed as verb
    from clipstore.reporting.embedding import print_bench_embed
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    retain_freed_memory()
    with progress_display() as on_progress:
        told = verb.bench_embed(store, verb.BenchEmbedOptions(**what, on_progress=on_progress))
    if as_json:
        print_json(told)
    else:
        print_bench_embed(told)
