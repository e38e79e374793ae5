"""`clipstore zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipstore import choices
from clipstore.cli.confirm import remove_confirmed, yes_option
from clipstore.cli.groups import DefaultGroup
from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import NonEmptyPath, json_option, memory_option, store_option
from clipstore.cli.output import print_warning

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command("zeroshot", cls=ModelCommand)
@click.option(
    "--model", "models", multiple=True, help="Model; may be repeated. [default: all with vectors of all images]"
)
@click.option("--split", required=True, help="Split whose images are classified, e.g. coco/val2017.")
@click.option(
    "--templates",
    type=NonEmptyPath(),
    help="Text file with a template per line, {} for the class. [default: 'a photo of a {}.']",
)
@click.option(
    "--labels",
    type=click.Choice(choices.LABELS),
    help="Classes of an image: exactly one (accuracy), or any number (mean average precision). [default: single if "
    "every image has exactly one, else multi]",
)
@click.option("--top", multiple=True, type=int, metavar="K", help="K of the metrics; may be repeated. [default: 1, 5]")
@click.option("--partial", is_flag=True, help="Use only the images embedded so far; the result is marked partial.")
@memory_option("Device memory budget of the model, and memory budget of the scores.")
@click.option("--device", help="Device for the texts of classes, e.g. cuda. [default: cuda if available, else cpu]")
@store_option
@json_option
def zeroshot_command(
    models: tuple[str, ...],
    split: str,
    templates: Path | None,
    top: tuple[int, ...],
    store: Store,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Classify images by texts of classes; print metrics.

    The classes are the categories of the dataset. The vector of a class is the mean of its name in each
    template. Texts are embedded once: their vectors are stored. Results are stored too, for 'clipstore
    query', 'clipstore compare --task zeroshot' and the report; they replace earlier ones of the same model,
    split, labels and templates.

    Example: clipstore zeroshot --model pretrained --split coco/val2017
    """
    from clipstore.pipeline.zeroshot.options import ZeroShotOptions
    from clipstore.pipeline.zeroshot.run import zeroshot as classify
    from clipstore.pipeline.zeroshot.templates import DEFAULT_TEMPLATES, read_templates
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.zeroshot import print_classifications

    chosen = DEFAULT_TEMPLATES if templates is None else read_templates(templates)
    with progress_display() as on_progress:
        result = classify(
            store, models, split, ZeroShotOptions(templates=chosen, top=top or None, **options, on_progress=on_progress)
        )
        for row in result.skipped:
            on_progress.print_line(f"skipped {row['model']}: {row['reason']}")
    for line in result.warnings:
        print_warning(line)
    if as_json:
        print_json(vars(result))
    else:
        print_classifications(result.classifications)


zeroshot = DefaultGroup(zeroshot_command)


@zeroshot.command("remove")
@click.option("--model", help="Model whose classifications are removed.")
@click.option("--split", help="Split whose classifications are removed.")
@yes_option
@store_option
@json_option
def remove(model: str | None, split: str | None, store: Store, *, yes: bool, as_json: bool) -> None:
    """Remove zero-shot classifications, with their ranks.

    Removes those that match --model and --split; at least one of them is required.

    Example: clipstore zeroshot remove --model tuned --split coco/val2017 --yes
    """
    from clipstore.pipeline.removal import remove_classifications

    remove_confirmed(
        lambda trial: remove_classifications(store, model=model, split=split, dry_run=trial), yes=yes, as_json=as_json
    )
