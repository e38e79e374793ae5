"""`clipstore run`: train, embed and evaluate as a job file describes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipstore.errors import JobError
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.embed.summary import failed_items, items_failed
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.train.run import TrainOptions, TrainSummary, train
from clipstore.records import Job, JobEvaluation, Row
from clipstore.store.layout import Store, split_id
from clipstore.store.model_records import record_model
from clipstore.store.models import find_job, job_model
from clipstore.store.recovery import save_records
from clipstore.waiting import wait_without_limit


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a job; `trained` is None for a job without a section [train].

    `failed_items` is the number of images and captions to evaluate on that have no vector.
    """

    job: Path
    trained: TrainSummary | None
    failed_items: int
    evaluations: list[Row]

    def row(self) -> Row:
        """The result as `clipstore run --json` prints it."""
        trained = self.trained.row() if self.trained else None
        return {
            "job": str(self.job),
            "trained": trained,
            "failed_items": self.failed_items,
            "evaluations": self.evaluations,
        }

    def check_failures(self, *, allowed: int) -> None:
        """Check that at most `allowed` items failed.

        Raises:
            FailedItemsError: with their number.
        """
        if self.failed_items > allowed:
            raise items_failed(self.failed_items)


def run_job(store: Store, word: str, options: TrainOptions) -> JobResult:
    """Train a job's model if the job has a section [train], embed the splits of its evaluation, and evaluate.

    `word` is the job's name or the path of its file. Without a table [eval], the validation split is evaluated.

    Raises:
        NotFoundError: there is no such job or split.
        JobError: the file cannot be read, has nothing to evaluate on, or another job has its name.
        ClipstoreError: likewise the errors of `train`, `embed` and `evaluate`.
    """
    job = find_job(store, word)
    evaluation = job.evaluation
    if evaluation is None and job.training:
        evaluation = JobEvaluation(splits=(job.training.validation,))
    if evaluation is None:
        message = f"{job.file} has nothing to evaluate on: add a table [eval] with splits"
        raise JobError(message)
    with store.catalog.read() as session:  # an unknown split is reported before hours of training
        for split in evaluation.splits:
            split_id(session, split)
    trained = train(store, job, options) if job.training else None
    with wait_without_limit():
        failed = _embed(store, job, word, evaluation, options)
        evaluations = _evaluate(store, word, evaluation, options)
    return JobResult(job=job.file, trained=trained, failed_items=failed, evaluations=evaluations)


def _embed(store: Store, job: Job, word: str, evaluation: JobEvaluation, options: TrainOptions) -> int:
    """Embed the splits of an evaluation with a job's model; the number of items that failed."""
    with store.catalog.write() as session:
        record_model(session, job_model(store, job), origin="job")
        save_records(session, store, "models")
    devices = (options.device,) if options.device else ()
    embed_options = EmbedOptions(splits=evaluation.splits, devices=devices, on_progress=options.on_progress)
    return failed_items(embed(store, [word], embed_options))


def _evaluate(store: Store, word: str, evaluation: JobEvaluation, options: TrainOptions) -> list[Row]:
    eval_options = EvalOptions(
        protocol=evaluation.protocol, captions=evaluation.captions, on_progress=options.on_progress
    )
    return [row for split in evaluation.splits for row in evaluate(store, [word], split, eval_options).evaluations]
