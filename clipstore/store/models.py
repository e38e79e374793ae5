"""Look up models and jobs by name: job files and the models recorded in the catalog."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from clipstore.errors import JobError, ModelError, NotFoundError
from clipstore.jobs import is_packaged, is_path, job_file, job_files, read_job
from clipstore.records import Job, Model, Row
from clipstore.store.layout import Store
from clipstore.store.model_rows import MODEL_FIELDS, differences, model_of, recorded_models
from clipstore.training_files import BEST


def find_model(store: Store, name: str) -> Model:
    """Returns the model of a name: ./jobs/NAME.toml, else the packaged job, else the recorded model.

    `name` can also be the path of a job file. The model of a job with a section [train] is the one that was trained in
    this store.

    Raises:
        NotFoundError: there is no model of this name. The message suggests the nearest name.
        ModelError: a job and a recorded model of this name differ, or the job's model is not trained yet.
    """
    if name not in job_files():
        recorded = recorded_models(store)
        if name in recorded:
            return model_of(recorded[name])
        if not is_path(name):
            message = "add one with 'clipstore model add' or a job file jobs/NAME.toml"
            raise NotFoundError.of("model", name, {*job_files(), *recorded}, hint=message)
    job = find_job(store, name)
    if awaits_training(store, job):
        message = f"{job.model.name} is not trained in this store yet: run 'clipstore train --model {name}' first"
        raise ModelError(message)
    return job_model(store, job)


def model_name(store: Store, name_or_path: str) -> str:
    """Returns the name of a model given by its name or by the path of its job file. A name is not looked up.

    Raises:
        NotFoundError: there is no such job file.
        JobError, ModelError: as for `find_job`.
    """
    return find_job(store, name_or_path).model.name if is_path(name_or_path) else name_or_path


def awaits_training(store: Store, job: Job) -> bool:
    """Whether a job's model is still to be trained."""
    return bool(job.training) and not Path(job_model(store, job).adapter or "").is_dir()


def find_job(store: Store, name: str) -> Job:
    """The job `name`, given by name or by path (see `job_file`).

    Raises:
        NotFoundError: there is no such job. The message suggests the nearest name.
        JobError: the file is invalid, or a different job has the same name.
        ModelError: a recorded model of this name differs.
    """
    job = read_job(job_file(name))
    other = job_files().get(job.model.name)
    if other and replace(read_job(other), file=job.file) != job:
        message = f"{job.file} and {other} are different jobs with the same name: rename one of them"
        raise JobError(message)
    check_name_conflict(store, job_model(store, job), job.file)
    return job


def job_model(store: Store, job: Job) -> Model:
    """Returns the model of a job. If the job has a section [train], its adapter is that of the training run."""
    return replace(job.model, adapter=str(store.adapter(job.model.name) / BEST)) if job.training else job.model


def check_name_conflict(store: Store, model: Model, file: Path) -> None:
    """Check that no other model is recorded under the name of a job's model.

    Raises:
        ModelError: another model is recorded. The message lists the differences.
    """
    problem = _name_conflict(recorded_models(store).get(model.name), model, file)
    if problem:
        raise ModelError(problem)


def _name_conflict(row: Row | None, model: Model, file: Path) -> str | None:
    """Returns the problem if a job's model and the recorded model of its name differ, else None.

    A job file of the working folder may have been edited since its model was recorded. A packaged job is never edited:
    if its recorded model differs, it is that of a job file in another folder. The path of the store may have changed.
    """
    if not row or model_of(row) == model:
        return None
    if row["origin"] == "job":
        if not is_packaged(file) or model_of(row) == replace(model, adapter=row["adapter"]):
            return None
        return (
            f"the name {model.name!r} is ambiguous: the packaged job {file} differs from the job of another folder "
            f"that is recorded in the store, with {differences(row, model)}: work in that folder, or run "
            f"'clipstore model remove {model.name}'"
        )
    return (
        f"the name {model.name!r} is ambiguous: the job {file} differs from the model that is recorded in the store, "
        f"with {differences(row, model)}: rename the job, or remove the recorded model with "
        f"'clipstore model remove {model.name}'"
    )


def with_absolute_paths(model: Model) -> Model:
    """A model whose local folders have absolute paths, for processes in other working folders."""
    base, adapter = Path(model.base).expanduser(), model.adapter and str(Path(model.adapter).expanduser().absolute())
    return replace(model, base=str(base.absolute()) if base.is_dir() else model.base, adapter=adapter)


def list_models(store: Store) -> list[Row]:
    """All jobs and recorded models by name: "from" (the job file, or how it was recorded), "problem" (why it cannot be
    used, or None), and the description.
    """
    recorded = recorded_models(store)
    rows = {
        name: {"from": row["origin"], "problem": None, **_description(model_of(row))} for name, row in recorded.items()
    }
    for name, file in job_files().items():
        try:
            job = read_job(file)
            model = job_model(store, job)
            problem = _name_conflict(recorded.get(name), model, file)
            if not problem and awaits_training(store, job):
                problem = "not trained yet"
            rows[name] = {"from": str(file), "problem": problem, **_description(model)}
        except JobError as error:
            rows[name] = {"from": str(file), "problem": str(error), **dict.fromkeys(MODEL_FIELDS[1:])}
    return [{"name": name, **rows[name]} for name in sorted(rows)]


def _description(model: Model) -> Row:
    return {name: value for name, value in asdict(model).items() if name != "name"}


def show_model(store: Store, name: str) -> Row:
    """A model's description, the origin of its name ("from"), and the stored vectors and failures of its "towers"."""
    is_job = name in job_files() or (is_path(name) and name not in recorded_models(store))
    job = find_job(store, name) if is_job else None
    model = job_model(store, job) if job else find_model(store, name)
    towers: list[Row] = []
    row: Row | None = None
    with suppress(NotFoundError), store.catalog.read() as session:  # a job can be shown before there is a store
        row = session.row("model/find", name=model.name)
        towers = session.rows("model/holdings", model_id=row["model_id"]) if row else []
    origin = str(job.file) if job else row and row["origin"]
    return asdict(model) | {"from": origin, "towers": towers}
