"""`clipstore demo`."""

from __future__ import annotations

from pathlib import Path

import click

from clipstore.cli.options import json_option


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=Path("demo"))
@click.option("--images", type=click.IntRange(min=2), default=600, show_default=True, help="How many scenes to draw.")
@json_option
def demo(folder: Path, images: int, *, as_json: bool) -> None:
    """Draw a small data set into FOLDER (default: ./demo) and do the main job on it.

    Example: clipstore demo
    """
    from clipstore.pipeline.demo import run_demo
    from clipstore.reporting.progress import shown_progress
    from clipstore.reporting.story import print_demo
    from clipstore.reporting.tables import print_json

    with shown_progress() as on_progress:
        told = run_demo(folder, images=images, on_progress=on_progress)
    if as_json:
        print_json(told)
    else:
        print_demo(told)
