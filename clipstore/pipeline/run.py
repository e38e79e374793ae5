"""`clipstore run`: all that a job file says, in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from clipstore.catalog import Row
from clipstore.errors import JobError
from clipstore.jobs import job_files, read_job
from clipstore.patience import keep_waiting
from clipstore.pipeline.embed import EmbedOptions, embed
from clipstore.pipeline.evaluate import EvalOptions, evaluate
from clipstore.pipeline.models import check_meaning, job_model, record_model
from clipstore.pipeline.store import Store, split_id
from clipstore.pipeline.train import Trained, TrainOptions, train
from clipstore.records import Job, Measure


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a job gave; `trained` is None for one that trains nothing."""

    trained: Trained | None
    evaluations: list[Row]


def run_job(store: Store, file: Path, options: TrainOptions) -> Done:
    """Train a job's model where it trains one, embed the splits it is measured on, evaluate.

    Raises:
        JobError: the file cannot be read, says nothing to measure on, or its name is that of another job.
        And what `train`, `embed` and `evaluate` raise.
    """
    job = read_job(file)
    name = job.model.name
    other = job_files().get(name)
    if other and replace(read_job(other), file=file) != job:
        message = f"{file} and {other} are two jobs of one name: rename one, so that {name!r} means one thing"
        raise JobError(message)
    measured = job.measure or (Measure(splits=(job.training.validation,)) if job.training else None)
    if measured is None:
        message = f"{file} says nothing to measure on: give it a table [eval] with splits"
        raise JobError(message)
    check_meaning(store, job_model(store, job), file)
    with store.catalog.read() as session:  # a name that is wrong is told before hours of training
        for split in measured.splits:
            split_id(session, split)
    trained = train(store, job, options) if job.training else None
    with keep_waiting():
        return Done(trained=trained, evaluations=_measured(store, job, measured, options))


def _measured(store: Store, job: Job, measured: Measure, options: TrainOptions) -> list[Row]:
    """Embed what a job's model is measured on, and evaluate it."""
    name = job.model.name
    with store.catalog.write() as session:
        record_model(session, job_model(store, job), origin="job")
    devices = (options.device,) if options.device else ()
    embed(store, [name], EmbedOptions(splits=measured.splits, devices=devices, on_progress=options.on_progress))
    asked = EvalOptions(protocol=measured.protocol, captions=measured.captions, on_progress=options.on_progress)
    return [row for split in measured.splits for row in evaluate(store, [name], split, asked)]
