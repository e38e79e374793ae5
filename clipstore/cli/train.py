"""`clipstore train` and `clipstore run`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.pipeline.store import Store

_device = click.option("--device", help="Where it runs, such as cuda:1. [default: cuda where there is one, else cpu]")
_restart = click.option(
    "--restart", is_flag=True, help="Begin anew: what a former training of the job left is removed."
)


@click.command()
@click.option("--model", required=True, help="The model to train: a job with a table [train].")
@_restart
@_device
@store_option
@json_option
def train(model: str, store: Store, *, restart: bool, device: str | None, as_json: bool) -> None:
    """Fine-tune a model by LoRA as its job says.

    It learns from image features in the store; what is missing of the base's features is embedded
    first. Each epoch is measured exactly on the validation split. Killed and started again, it goes
    on where it was. The adapter is STORE/adapters/MODEL/best, metrics.csv beside it has a line an
    epoch.

    Example: clipstore train --model full
    """
    from clipstore.pipeline.models import find_job
    from clipstore.pipeline.train import TrainOptions
    from clipstore.pipeline.train import train as verb
    from clipstore.reporting.progress import shown_progress
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import epoch_line, print_training

    with shown_progress() as shown:
        options = TrainOptions(
            restart=restart,
            device=device,
            on_progress=shown,
            on_epoch=lambda epoch: shown.say(epoch_line(model, asdict(epoch))),
        )
        told = verb(store, find_job(store, model), options).row()
    if as_json:
        print_json(told)
    else:
        print_training(told)


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@_restart
@_device
@store_option
@json_option
def run(job: Path, store: Store, *, restart: bool, device: str | None, as_json: bool) -> None:
    """Train, embed and evaluate as a job says.

    The splits that it is measured on are those of its table [eval], else its validation split. What
    was done already is not done again.

    Example: clipstore run jobs/full.toml
    """
    from clipstore.pipeline.run import run_job
    from clipstore.pipeline.train import TrainOptions
    from clipstore.reporting.metrics import print_evaluations
    from clipstore.reporting.progress import shown_progress
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import epoch_line, print_training

    with shown_progress() as shown:
        options = TrainOptions(
            restart=restart,
            device=device,
            on_progress=shown,
            on_epoch=lambda epoch: shown.say(epoch_line(job.stem, asdict(epoch))),
        )
        done = run_job(store, job, options)
    trained = done.trained.row() if done.trained else None
    if as_json:
        print_json({"trained": trained, "evaluations": done.evaluations})
        return
    if trained:
        print_training(trained)
    print_evaluations(done.evaluations)
