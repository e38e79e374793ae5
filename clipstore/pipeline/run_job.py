"""`clipstore run`: all that a job file says, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipstore.errors import JobError
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.train.run import TrainOptions, TrainSummary, train
from clipstore.records import Job, JobEvaluation, Row
from clipstore.store.layout import Store, split_id
from clipstore.store.model_records import record_model
from clipstore.store.models import find_job, job_model
from clipstore.waiting import wait_without_limit


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """What the job of a file gave; `trained` is None for one that trains nothing."""

    job: Path
    trained: TrainSummary | None
    evaluations: list[Row]

    def row(self) -> Row:
        """The result as `clipstore run --json` prints it."""
        trained = self.trained.row() if self.trained else None
        return {"job": str(self.job), "trained": trained, "evaluations": self.evaluations}


def run_job(store: Store, word: str, options: TrainOptions) -> JobResult:
    """Train the model of a job (a name or a path) where it trains one, embed the splits it is measured on, evaluate.

    Raises:
        NotFoundError: there is no such job.
        JobError: the file cannot be read, says nothing to measure on, or its name is that of another job.
        And what `train`, `embed` and `evaluate` raise.
    """
    job = find_job(store, word)
    measured = job.evaluation or (JobEvaluation(splits=(job.training.validation,)) if job.training else None)
    if measured is None:
        message = f"{job.file} says nothing to measure on: give it a table [eval] with splits"
        raise JobError(message)
    with store.catalog.read() as session:  # a name that is wrong is told before hours of training
        for split in measured.splits:
            split_id(session, split)
    trained = train(store, job, options) if job.training else None
    with wait_without_limit():
        return JobResult(job=job.file, trained=trained, evaluations=_measured(store, job, word, measured, options))


def _measured(store: Store, job: Job, word: str, measured: JobEvaluation, options: TrainOptions) -> list[Row]:
    """Embed what a job's model is measured on, and evaluate it."""
    with store.catalog.write() as session:
        record_model(session, job_model(store, job), origin="job")
    devices = (options.device,) if options.device else ()
    embed(store, [word], EmbedOptions(splits=measured.splits, devices=devices, on_progress=options.on_progress))
    asked = EvalOptions(protocol=measured.protocol, captions=measured.captions, on_progress=options.on_progress)
    return [row for split in measured.splits for row in evaluate(store, [word], split, asked).evaluations]
