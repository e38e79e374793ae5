"""`clipstore train` and `clipstore run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.options import json_option, store_option
from clipstore.process import retain_freed_memory

if TYPE_CHECKING:
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
    from clipstore.reporting.training import print_training
    from clipstore.store.models import find_job

    retain_freed_memory()
    job = find_job(store, model)
    with progress_display() as display:
        options = TrainOptions.with_display(model, job, display, restart=restart, device=device)
        trained = verb(store, job, options).row()
    if as_json:
        print_json(trained)
    else:
        print_training(trained)


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
    from clipstore.reporting.training import print_training
    from clipstore.store.models import find_job

    retain_freed_memory()
    with progress_display() as display:
        options = TrainOptions.with_display(job, find_job(store, job), display, restart=restart, device=device)
        result = run_job(store, job, options).row()
    if as_json:
        print_json(result)
        return
    if result["trained"]:
        print_training(result["trained"])
    else:
        click.echo(f"job: {result['job']}")
    print_evaluations(result["evaluations"])
