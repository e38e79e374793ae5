"""`clipstore eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.groups import DefaultGroup
from clipstore.cli.options import json_option, memory_option, ray_options, store_option
from clipstore.hints import RERANK_TOP
from clipstore.protocols import PROTOCOLS, protocols_help

if TYPE_CHECKING:
    from clipstore.store.layout import Store


_PROTOCOLS = click.Choice(list(PROTOCOLS))


@click.command("eval")
@click.option(
    "--model", "models", multiple=True, help="Model; may be repeated. [default: all whose vectors are complete]"
)
@click.option("--split", required=True, help="Split to evaluate on, e.g. coco/val2017.")
@click.option(
    "--protocol",
    type=_PROTOCOLS,
    default="standard",
    show_default=True,
    help=protocols_help(),
)
@click.option(
    "--captions",
    type=click.Choice(choices.CAPTIONS),
    help="Captions of each image in the gallery. [default: first5 for coco-1k, eccv and cxc, else all]",
)
@click.option(
    "--partial",
    is_flag=True,
    help="Evaluate only the items embedded so far, or accept fewer queries than eccv and cxc require; the result is "
    "marked partial.",
)
@click.option(
    "--unseen",
    is_flag=True,
    help="Restrict the queries to images that none of the models was trained on; the gallery is unchanged.",
)
@click.option(
    "--rerank",
    metavar="MODEL",
    help="Order the first candidates of each query again by the scores that 'clipstore rerank' stored of this model. "
    "Without --model, they are also those of this model's own vectors.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=RERANK_TOP,
    show_default=True,
    help="Candidates of each query that --rerank orders again.",
)
@click.option(
    "--rerank-weight",
    type=float,
    default=1.0,
    show_default=True,
    help="Weight of the cosine similarity, which --rerank adds to the matching logit.",
)
@memory_option("Memory budget for ranking, in addition to the base process; on a Ray cluster also of each worker.")
@click.option("--device", default="cpu", show_default=True, help="Device for the matrix products, e.g. cuda.")
@ray_options(
    "Rank on the nodes of the Ray cluster at this address, HOST:PORT or auto, which must see the store under the same "
    "path. The result is the same, bit for bit."
)
@store_option
@json_option
def evaluate_command(
    models: tuple[str, ...], split: str, top: int, store: Store, *, as_json: bool, **options: Any
) -> None:
    """Rank a split exactly in both directions; print metrics.

    Ranks and hits are stored in the catalog, for 'clipstore query' and 'clipstore sql'.
    Replaces an earlier evaluation with the same model, split and options.

    Example: clipstore eval --model pretrained --split coco/val2017
    """
    from clipstore.pipeline.evaluate.options import EvalOptions
    from clipstore.pipeline.evaluate.run import evaluate as evaluate_models
    from clipstore.reporting.evaluations import print_evaluations
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        result = evaluate_models(store, models, split, EvalOptions(rerank_top=top, **options, on_progress=on_progress))
        for row in result.skipped:
            on_progress.print_line(f"skipped {row['model']}: {row['reason']}")
    if as_json:
        print_json({"evaluations": result.evaluations, "skipped": result.skipped, "warnings": result.warnings})
    else:
        print_evaluations(result.evaluations)


evaluate = DefaultGroup(evaluate_command)


@evaluate.command("remove")
@click.option("--model", help="Model whose evaluations are removed; a reranked one is named FIRST+RERANKER.")
@click.option("--split", help="Split whose evaluations are removed.")
@click.option("--protocol", type=_PROTOCOLS, help="Protocol of the evaluations that are removed.")
@yes_option
@store_option
@json_option
def remove(
    model: str | None, split: str | None, protocol: str | None, store: Store, *, yes: bool, as_json: bool
) -> None:
    """Remove evaluations, with their ranks and hits.

    Removes the evaluations that match --model, --split and --protocol; at least one of them is required.

    Example: clipstore eval remove --model tuned --split coco/val2017 --yes
    """
    from clipstore.pipeline.removal import remove_evaluations

    remove_confirmed(
        lambda trial: remove_evaluations(store, model=model, split=split, protocol=protocol, dry_run=trial),
        yes=yes,
        as_json=as_json,
    )
