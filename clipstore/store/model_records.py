"""Record models, their towers and their training images in the catalog."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa

from clipstore.catalog import Session
from clipstore.encoders.checks import check_model
from clipstore.encoders.families import recognise
from clipstore.encoders.locate import locate
from clipstore.errors import JobError, ModelError, check_name
from clipstore.jobs import checked_model, job_files, read_job
from clipstore.records import Job, Model, Row, Tower
from clipstore.store.layout import Store, split_id
from clipstore.store.model_rows import differences, model_of, recorded_models
from clipstore.store.models import find_model, job_model
from clipstore.store.recovery import save_records
from clipstore.training_files import TRAINING_IMAGES

_CONTENT_KEY = re.compile(rb"[0-9a-f]{64}")


def add_model(
    store: Store,
    name: str,
    *,
    base: str,
    family: str | None = None,
    adapter: str | None = None,
    exif_orientation: bool = False,
    on_warning: Callable[[str], None] = lambda _warning: None,
) -> Model:
    """Record a model, local folders by their absolute path. Recording an equal model again changes nothing.

    Without `family` it is recognised from the base's files. A model that equals the job of its name is not recorded. If
    clipstore trained the adapter, its training images are recorded too.

    Raises:
        ModelError: the name is that of another job or model, or the model's files cannot be used.
        JobError: a value is out of range.
    """
    check_name("model", name)
    base, adapter = _absolute(base), adapter and _absolute(adapter)
    job = job_files().get(name)
    model = checked_model(
        name=name,
        context=f"model add {name}",
        base=base,
        family=family or _family(base, read_job(job) if job else None),
        adapter=adapter,
        exif_orientation=exif_orientation,
    )
    if job and job_model(store, read_job(job)) != model:
        message = f"{name!r} is the name of the job {job}, which is another model: choose another name"
        raise ModelError(message)
    if job:
        return model
    for warning in check_model(model):
        on_warning(warning)
    with store.catalog.write(create=True) as session:
        row = session.row("model/find", name=name)
        if row and model_of(row) != model:
            message = f"{name!r} is recorded already, with {differences(row, model)}: choose another name"
            raise ModelError(message)
        record_model(session, model, origin="added")
        save_records(session, store, "models")
    return model


def _family(base: str, job: Job | None) -> str:
    """The family of a base: that of a job with the same base, else as its files say."""
    return job.model.family if job and job.model.base == base else recognise(locate(base), base).name


def _absolute(path: str) -> str:
    """Returns the absolute path of a local folder, and any other text unchanged."""
    folder = Path(path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def base_model(store: Store, job: Job) -> Model:
    """The model that a job's training starts from.

    It is a model with the same base, prompt and cleaning, so that its vectors are shared. If there is none,
    NAME.base is recorded.

    Raises:
        ModelError: another model is recorded as NAME.base.
    """
    for name in sorted(job_files().keys() | recorded_models(store).keys()):
        with suppress(JobError, ModelError):  # invalid jobs cannot be a base
            model = find_model(store, name)
            if model == replace(job.model, name=name):
                return model
    model = replace(job.model, name=f"{job.model.name}.base")
    row = recorded_models(store).get(model.name)
    if row and model_of(row) != model:
        message = (
            f"the job {job.file} needs the name {model.name!r} for its base, but a model is recorded under it, with "
            f"{differences(row, model)}: run 'clipstore model remove {model.name}', or rename the job"
        )
        raise ModelError(message)
    with store.catalog.write() as session:
        record_model(session, model, origin="added")
        save_records(session, store, "models")
    return model


def record_model(session: Session, model: Model, *, origin: str) -> int:
    """Record a model or update its description. Returns its id, which does not change.

    Raises:
        ModelError: a reranked evaluation has the name of a new model.
    """
    row = session.row("model/find", name=model.name)
    if row and model_of(row) == model:
        return int(row["model_id"])
    if not row and session.row("rerank/evaluation_named", name=model.name):
        message = f"{model.name!r} is the name of a reranked evaluation: choose another name"
        raise ModelError(message)
    if row:
        model_id = int(row["model_id"])
        session.run("model/delete", model_id=model_id)
    else:
        model_id = int(session.rows("model/next_id")[0]["model_id"])
    session.run("model/add", model_id=model_id, origin=origin, **asdict(model))
    if not row:
        _record_training_contents(session, model, model_id)
    return model_id


def _record_training_contents(session: Session, model: Model, model_id: int) -> None:
    """Record the training images of an adapter that clipstore trained, from the list in its folder.

    Raises:
        ModelError: the list is not one of SHA-256 in hex.
    """
    file = Path(model.adapter or "") / TRAINING_IMAGES
    if not model.adapter or not file.is_file():
        return
    contents = file.read_bytes().split()
    wrong = next((content for content in contents if not _CONTENT_KEY.fullmatch(content)), None)
    if wrong is not None:
        message = (
            f"{file} has {wrong[:40]!r} where it should have the SHA-256 of an image file: restore it, or remove it "
            f"and run 'clipstore model trained {model.name}'"
        )
        raise ModelError(message)
    session.stage(staged_contents=pa.table({"content": [content.decode() for content in contents]}))
    session.run("model/add_training_contents", model_id=model_id)


def record_training(store: Store, name: str, splits: Iterable[str]) -> Row:
    """Record that a model was trained on the images of some splits. Returns the number of all its training images.

    Raises:
        NotFoundError: there is no such model or split.
    """
    model = find_model(store, name)
    with store.catalog.write() as session:
        row = session.row("model/find", name=model.name)
        model_id = row["model_id"] if row else record_model(session, model, origin="job")
        for split in splits:
            session.run("model/add_training_images", model_id=model_id, split_id=split_id(session, split))
        count = session.rows("model/training_images", model_id=model_id)[0]["training_images"]
        save_records(session, store, "models")
    return {"model": model.name, "training_images": count}


def record_towers(session: Session, model_id: int, towers: tuple[Tower, ...], files_key: str) -> None:
    """Replace the current towers of a model."""
    session.run("model/delete_towers", model_id=model_id)
    for tower in towers:
        session.run("model/add_tower", model_id=model_id, files_key=files_key, **asdict(tower))
