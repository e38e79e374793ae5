"""`clipstore run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import failures_option, json_option, store_option
from clipstore.cli.output import echo
from clipstore.cli.train import device_option, restart_option

if TYPE_CHECKING:
    from clipstore.store.layout import Store


@click.command(cls=ModelCommand)
@click.argument("job")
@restart_option
@device_option
@failures_option
@store_option
@json_option
def run(job: str, allow_failures: int, store: Store, *, restart: bool, device: str | None, as_json: bool) -> None:
    """Train, embed and evaluate as a job describes.

    JOB is a name, as listed by 'model list', or the path of a job file; jobs/NAME.toml is the packaged
    job if there is no such file. The model is evaluated on the splits in the table [eval], by default on
    the validation split. Steps that are done already are skipped. The exit code is 3 if items to evaluate on
    failed or are missing.

    Example: clipstore run jobs/full.toml
    """
    from clipstore.pipeline.run_job import run_job
    from clipstore.pipeline.train.run import TrainOptions
    from clipstore.reporting.evaluations import print_evaluations
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import print_training
    from clipstore.store.models import find_job

    with progress_display() as display:
        options = TrainOptions.with_display(job, find_job(store, job), display, restart=restart, device=device)
        done = run_job(store, job, options)
    result = done.row()
    if as_json:
        print_json(result)
    else:
        if result["trained"]:
            print_training(result["trained"])
        else:
            echo(f"job: {result['job']}")
        if result["failed_items"]:
            echo(f"failed items: {result['failed_items']:,}")
        print_evaluations(result["evaluations"])
    done.check_failures(allowed=allow_failures)
