"""`clipstore eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.groups import DefaultGroup
from clipstore.cli.options import json_option, memory_option, store_option
from clipstore.protocols import PROTOCOLS, protocols_help

if TYPE_CHECKING:
    from clipstore.store.layout import Store


_PROTOCOLS = click.Choice(list(PROTOCOLS))


@click.command("eval")
@click.option(
    "--model", "models", multiple=True, help="The model; may be repeated. [default: all whose vectors are complete]"
)
@click.option("--split", required=True, help="The split to measure on, such as coco/val2017.")
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
    help="Which captions of an image count. [default: first5 for coco-1k, eccv and cxc, else all]",
)
@click.option(
    "--partial", is_flag=True, help="Measure what is embedded so far, or few queries of eccv or cxc, and say so."
)
@click.option(
    "--unseen",
    is_flag=True,
    help="Ask only with images that none of the models named was trained on; the gallery stays whole.",
)
@memory_option("Memory budget for ranking, beside what the program itself needs.")
@click.option("--device", default="cpu", show_default=True, help="Where the products run, such as cuda.")
@store_option
@json_option
def rank(models: tuple[str, ...], split: str, store: Store, *, as_json: bool, **how: Any) -> None:
    """Rank a split exactly in both directions; print metrics.

    Ranks and hits go into the catalog, where 'clipstore query' and 'clipstore sql' find them. The same
    evaluation again replaces the former.

    Example: clipstore eval --model pretrained --split coco/val2017
    """
    from clipstore.pipeline.evaluate.options import EvalOptions
    from clipstore.pipeline.evaluate.run import evaluate as evaluate_models
    from clipstore.reporting.metrics import print_evaluations
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json

    with progress_display() as on_progress:
        done = evaluate_models(store, models, split, EvalOptions(**how, on_progress=on_progress))
        for one in done.skipped:
            on_progress.print_line(f"skipped {one['model']}: {one['reason']}")
    if as_json:
        print_json({"evaluations": done.evaluations, "skipped": done.skipped, "warnings": done.warnings})
    else:
        print_evaluations(done.evaluations)


evaluate = DefaultGroup(rank)


@evaluate.command("remove")
@click.option("--model", help="The model whose evaluations to remove.")
@click.option("--split", help="The split whose evaluations to remove.")
@click.option("--protocol", type=_PROTOCOLS, help="The protocol of the evaluations to remove.")
@yes_option
@store_option
@json_option
def remove(
    model: str | None, split: str | None, protocol: str | None, store: Store, *, yes: bool, as_json: bool
) -> None:
    """Remove evaluations, with their ranks and hits.

    Those that fit all of --model, --split and --protocol, of which one at least is given.

    Example: clipstore eval remove --model tuned --split coco/val2017 --yes
    """
    from clipstore.pipeline.removal import remove_evaluations

    remove_confirmed(
        lambda trial: remove_evaluations(store, model=model, split=split, protocol=protocol, dry_run=trial),
        yes=yes,
        as_json=as_json,
    )
