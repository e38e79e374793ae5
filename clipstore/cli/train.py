"""`clipstore train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clipstore.cli.model_command import ModelCommand
from clipstore.cli.options import json_option, store_option
from clipstore.cli.output import echo

if TYPE_CHECKING:
    from clipstore.store.layout import Store

device_option = click.option(
    "--device", help="Device for training and encoding, e.g. cuda:1. [default: cuda if available, else cpu]"
)
restart_option = click.option(
    "--restart", is_flag=True, help="Start from scratch, deleting this job's earlier checkpoints."
)


@click.command(cls=ModelCommand)
@click.option("--model", required=True, help="A job with a table [train]: its name or the path of its file.")
@restart_option
@device_option
@store_option
@json_option
def train(model: str, store: Store, *, restart: bool, device: str | None, as_json: bool) -> None:
    """Fine-tune a model by LoRA as its job describes.

    Training uses image features from the store; missing features of the base are embedded first. Every
    epoch is evaluated exactly on the validation split. Safe to interrupt: run the same command again to
    resume. If epochs or patience are raised in the job, training is extended. The adapter is written to
    STORE/adapters/MODEL/best, and a line per epoch to STORE/adapters/MODEL/metrics.csv.

    Example: clipstore train --model full
    """
    from clipstore.pipeline.train.run import TrainOptions
    from clipstore.pipeline.train.run import train as train_job
    from clipstore.reporting.progress import progress_display
    from clipstore.reporting.tables import print_json
    from clipstore.reporting.training import print_training
    from clipstore.store.models import find_job

    job = find_job(store, model)
    with progress_display() as display:
        options = TrainOptions.with_display(model, job, display, restart=restart, device=device)
        trained = train_job(store, job, options).row()
    if as_json:
        print_json(trained)
    else:
        print_training(trained)
        echo(f"next: clipstore embed --model {trained['model']}")
