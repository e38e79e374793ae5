"""`clipstore demo`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import NonEmptyPath, json_option


@click.command(cls=ModelCommand)
@click.argument("folder", type=NonEmptyPath(file_okay=False), default=Path("demo"))
@click.option(
    "--images", type=click.IntRange(min=20), default=600, show_default=True, help="Number of held-out scenes."
)
@click.option("--seed", default=1, show_default=True, help="Seed of the scenes.")
@json_option
def demo(folder: Path, images: int, seed: int, *, as_json: bool) -> None:
    """Fine-tune the small CLIP on synthetic scenes and compare.

    The scenes and the store are written to FOLDER (default: ./demo). Two models are trained, on a few scenes and
    on many; both and their base are evaluated on held-out scenes. About three minutes on 2 cores.

    Example: clipstore demo
    """
    from clipstore.pipeline.demo import run_demo
    from clipstore.reporting.demo_output import print_demo
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import epoch_line

    with progress_display() as display:
        result = run_demo(
            folder,
            images=images,
            seed=seed,
            on_progress=display,
            on_epoch=lambda model, epoch: display.print_line(epoch_line(model, asdict(epoch))),
        )
    if as_json:
        print_json(result)
    else:
        print_demo(result)
