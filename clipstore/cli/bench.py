"""`clipstore bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import json_option, memory_option, store_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


_repeat_option = click.option(
    "--repeat",
    default=3,
    show_default=True,
    type=click.IntRange(1),
    help="Number of repetitions; medians are reported.",
)


@click.group()
def bench() -> None:
    """Run benchmarks on this machine.

    Example: clipstore bench eval
    """


@bench.command("eval")
@click.option("--images", default=5000, show_default=True, type=click.IntRange(1), help="Number of images.")
@click.option("--captions", default=25_000, show_default=True, type=click.IntRange(1), help="Number of captions.")
@click.option("--dim", default=512, show_default=True, type=click.IntRange(2), help="Dimension of the vectors.")
@_repeat_option
@click.option("--seed", default=0, show_default=True, help="Seed of the synthetic vectors.")
@click.option(
    "--screen",
    type=click.Choice(choices.SCREENS),
    default="auto",
    show_default=True,
    envvar="CLIPSTORE_SCREEN",
    show_envvar=True,
    help="Precision of the first matrix products; auto is the fastest on this machine.",
)
@memory_option("Memory budget for ranking, in addition to the base process.")
@click.option("--device", default="cpu", show_default=True, help="Device for the matrix products, e.g. cuda.")
@json_option
def bench_eval(*, as_json: bool, **options: Any) -> None:
    """Time exact ranking relative to bare float32 products.

    The vectors have the geometry of CLIP's on COCO and are read from shards. The rank of every positive in both
    directions and the top 10 hits are computed exactly; the bare products are the lower bound. Each repetition
    also ranks without comparing the shards with their checksums, which measures the cost of the comparison.

    Example: clipstore bench eval --images 40504 --captions 202654 --repeat 1
    """
    from clipstore.bench import evaluate as benchmark
    from clipstore.reporting.metrics import print_bench
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        result = benchmark.bench_eval(benchmark.BenchOptions(**options, on_progress=on_progress))
    if as_json:
        print_json(result)
    else:
        print_bench(result)


@bench.command("embed", cls=ModelCommand)
@click.option(
    "--split",
    "splits",
    multiple=True,
    help="Split whose images and captions are embedded; may be repeated. [default: synthetic images and captions]",
)
@click.option("--base", help="Hub id or folder of the model. [default: a ViT-B/32 with random weights]")
@click.option("--images", default=512, show_default=True, type=click.IntRange(1), help="Maximum number of images.")
@click.option("--captions", default=5000, show_default=True, type=click.IntRange(1), help="Maximum number of captions.")
@_repeat_option
@click.option("--seed", default=0, show_default=True, help="Seed of the weights and the synthetic images.")
@click.option(
    "--precision",
    type=click.Choice(choices.PRECISIONS),
    default="auto",
    show_default=True,
    help="See 'clipstore embed'.",
)
@memory_option("Device memory budget.")
@click.option("--device", help="Device, e.g. cuda:1. [default: cuda if available, else cpu]")
@click.option("--compile", "compiled", is_flag=True, help="Run the model through torch.compile.")
@click.option(
    "--read-delay",
    default=0.0,
    type=click.FloatRange(0),
    help="Also benchmark with this simulated read latency per image, in seconds, e.g. of a network disk.",
)
@store_option
@json_option
def bench_embed(store: Store, *, as_json: bool, **options: Any) -> None:
    """Time embedding relative to its stages.

    Without --base, the tokenizer is trained on the captions and gives a few percent fewer tokens than CLIP's.
    Decoding alone, and the model alone on prepared batches, are measured in the same run.
    'share' is the rate of embedding divided by the rate that both together allow.

    Example: clipstore bench embed --images 200 --captions 2000
    """
    from clipstore.bench import embed as benchmark
    from clipstore.reporting.embedding import print_bench_embed
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        result = benchmark.bench_embed(store, benchmark.BenchEmbedOptions(**options, on_progress=on_progress))
    if as_json:
        print_json(result)
    else:
        print_bench_embed(result)
