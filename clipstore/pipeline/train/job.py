"""A job that trains, with everything that does not change during its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipstore.device import checked_device, mixed_precision
from clipstore.errors import JobError
from clipstore.records import Job, Model, Training
from clipstore.store.layout import Store
from clipstore.store.model_records import base_model
from clipstore.store.models import job_model


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """A job with a table [train].

    Attributes:
        file: the job file.
        name: of the model.
        model: the model that training gives; its adapter is in the store.
        base: the model that training starts from, under a name of its own.
        training: the table [train].
        device, precision: of the training.
        folder: the folder of the adapter in the store.
    """

    file: Path
    name: str
    model: Model
    base: Model
    training: Training
    device: str
    precision: str
    folder: Path

    @classmethod
    def of(cls, store: Store, job: Job, device: str | None) -> TrainJob:
        """A job as it is trained in a store; its base is recorded there if it is new.

        Raises:
            JobError: the job has no table [train].
            ModelError: this machine has no such device, or another model has the name of the base.
        """
        if job.training is None:
            message = (
                f"{job.file} has no table [train]: 'clipstore embed --model {job.model.name}' uses the model as it is"
            )
            raise JobError(message)
        base = base_model(store, job)
        device = checked_device(device)
        return cls(
            file=job.file,
            name=job.model.name,
            model=job_model(store, job),
            base=base,
            training=job.training,
            device=device,
            precision=mixed_precision(job.training.precision, device),
            folder=store.adapter(job.model.name),
        )
