"""Methods of `EmbeddingStore` on training."""

from __future__ import annotations

from clipstore.api.arguments import Names, ShowProgress, checked, names
from clipstore.api.base import StoreMethods
from clipstore.api.progress import progress_of
from clipstore.api.results import Result, RunResult, TrainResult


class TrainingMethods(StoreMethods):
    """Train models and run jobs."""

    @checked
    def record_training(self, name: str, split: Names) -> Result:
        """Record that a model was trained on splits, so that evaluations report the overlap.

        Args:
            name: The model.
            split: One or several splits.

        Returns:
            What `clipstore model trained --json` prints: "model" and "training_images", the number of images of this
            store that it was trained on.

        Raises:
            NotFoundError: There is no such model or split.

        Example:
            >>> store.record_training("tuned", "coco/train2014")
        """
        from clipstore.store.model_records import record_training

        return Result(record_training(self._store, name, names(split)))

    @checked
    def train(
        self, model: str, *, restart: bool = False, device: str | None = None, progress: ShowProgress = None
    ) -> TrainResult:
        """Fine-tune a model by LoRA as its job describes, or resume a training run that was interrupted.

        Args:
            model: A job with a table [train]: its name or the path of its file.
            restart: Start from scratch, deleting this job's earlier checkpoints.
            device: Such as "cuda:1"; None: CUDA if available, else the CPU.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore train --json` prints: "model", "job", "adapter" (the folder), "images", "captions",
            "left_out_images", "left_out_captions", "precision", "watch" (the metric that chooses the best epoch),
            "history" (a row for each epoch with its "loss" and "metrics"), "best" (such a row), "stopped_by", "resumed"
            and "extended".

        Raises:
            NotFoundError: There is no such job.
            JobError: The job has no table [train], or cannot be read.
            TrainingError: The splits cannot be trained on, the loss is not finite, or the checkpoint is of another
                job.
            ModelError: The base model cannot be loaded.

        Example:
            >>> store.train("full", progress=True)["best"]["metrics"]["rsum"]
        """
        from clipstore.pipeline.train.run import TrainOptions, train
        from clipstore.store.models import find_job

        job = find_job(self._store, model)
        with progress_of(progress) as display:
            options = TrainOptions.with_display(model, job, display, restart=restart, device=device)
            return TrainResult(train(self._store, job, options).row())

    @checked
    def run(
        self, job: str, *, restart: bool = False, device: str | None = None, progress: ShowProgress = None
    ) -> RunResult:
        """Train, embed and evaluate as a job describes. Completed steps are skipped.

        Args:
            job: The name of a job or the path of its file.
            restart: See `train`.
            device: See `train`.
            progress: See `EmbeddingStore`.

        Returns:
            What `clipstore run --json` prints: "job" (its file), "trained" (see `train`; None for a job without a
            training), "failed_items" (images and captions of the evaluation without a vector) and "evaluations" (see
            `evaluate`).

        Raises:
            NotFoundError: There is no such job, or a split of it.
            JobError: The job cannot be read, or names no split to evaluate on.
            TrainingError: See `train`.
            VectorError: See `evaluate`.

        Example:
            >>> store.run("jobs/full.toml", progress=True)["evaluations"]
        """
        from clipstore.pipeline.run_job import run_job
        from clipstore.pipeline.train.run import TrainOptions
        from clipstore.store.models import find_job

        with progress_of(progress) as display:
            described = find_job(self._store, job)
            options = TrainOptions.with_display(job, described, display, restart=restart, device=device)
            return RunResult(run_job(self._store, job, options).row())
