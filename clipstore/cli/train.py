"""`clipstore train` and `clipstore run`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option

if TYPE_CHECKING:
    from clipstore.records import Job
    from clipstore.reporting.progress import ProgressDisplay
    from clipstore.store.layout import Store

_device = click.option("--device", help="Where it runs, such as cuda:1. [default: cuda where there is one, else cpu]")
_restart = click.option(
    "--restart", is_flag=True, help="Begin anew: what a former training of the job left is removed."
)


@click.command()
@click.option(
    "--model", required=True, help="The model to train: a job with a table [train], by its name or its file's path."
)
@_restart
@_device
@store_option
@json_option
def train(model: str, store: Store, *, restart: bool, device: str | None, as_json: bool) -> None:
    """Fine-tune a model by LoRA as its job says.

    It learns from image features in the store; what is missing of the base's features is embedded
    first. Each epoch is measured exactly on the validation split. Safe to interrupt: run the same
    command again to resume; with more epochs or patience in the job than before, training is
    extended. The adapter is STORE/adapters/MODEL/best, metrics.csv beside it has a line an epoch.

    Example: clipstore train --model full
    """
    from clipstore.pipeline.train.run import TrainOptions
    from clipstore.pipeline.train.run import train as verb
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import epoch_line, print_training
    from clipstore.store.models import find_job

    job = find_job(store, model)
    with progress_display() as shown:
        options = TrainOptions(
            restart=restart,
            device=device,
            on_progress=shown,
            on_epoch=lambda epoch: shown.print_line(epoch_line(job.model.name, asdict(epoch))),
            on_note=shown.print_line,
            on_begin=lambda: _say_packaged(model, job, shown),
        )
        told = verb(store, job, options).row()
    if as_json:
        print_json(told)
    else:
        print_training(told)


@click.command()
@click.argument("job")
@_restart
@_device
@store_option
@json_option
def run(job: str, store: Store, *, restart: bool, device: str | None, as_json: bool) -> None:
    """Train, embed and evaluate as a job says.

    JOB is a name, as 'model list' has it, or the path of a job file; jobs/NAME.toml is the packaged job
    where there is no such file here. The splits that it is evaluated on are those of its table [eval],
    else its validation split. What was done already is not done again.

    Example: clipstore run jobs/full.toml
    """
    from clipstore.pipeline.run_job import run_job
    from clipstore.pipeline.train.run import TrainOptions
    from clipstore.reporting.metrics import print_evaluations
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import epoch_line, print_training
    from clipstore.store.models import find_job

    named = find_job(store, job)
    with progress_display() as shown:
        options = TrainOptions(
            restart=restart,
            device=device,
            on_progress=shown,
            on_epoch=lambda epoch: shown.print_line(epoch_line(named.model.name, asdict(epoch))),
            on_note=shown.print_line,
            on_begin=lambda: _say_packaged(job, named, shown),
        )
        done = run_job(store, job, options)
    trained = done.trained.row() if done.trained else None
    if as_json:
        print_json({"job": str(done.job), "trained": trained, "evaluations": done.evaluations})
        return
    if trained:
        print_training(trained)
    else:
        click.echo(f"job: {done.job}")
    print_evaluations(done.evaluations)


def _say_packaged(word: str, job: Job, shown: ProgressDisplay) -> None:
    """Say so where the path of a job file stands for the packaged job."""
    from clipstore.jobs import is_path

    if is_path(word) and job.file != Path(word):
        shown.print_line(f"{word} is not in this folder: using the packaged job {job.file}")
