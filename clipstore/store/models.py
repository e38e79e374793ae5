"""From a model's name to its description and its towers: job files, what the catalog recorded, fingerprints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

import pyarrow as pa

from clipstore.catalog import Session
from clipstore.device import best_precision, checked_device
from clipstore.encoders.checks import check_model
from clipstore.encoders.fingerprint import describe, files_key
from clipstore.encoders.fingerprint_v1 import v1_fingerprints
from clipstore.errors import JobError, ModelError, NotFoundError, check_name
from clipstore.jobs import checked_model, is_packaged, is_path, job_file, job_files, read_job
from clipstore.records import Job, Model, Row, Tower
from clipstore.store.layout import Store, split_id
from clipstore.training_files import BEST, TRAINING_IMAGES

IMPORTED = "imported"
ORIGINS = ("job", "added", "imported")  # how a recorded model came into the catalog

_MODEL_FIELDS = tuple(field.name for field in fields(Model))
_TOWER_FIELDS = tuple(field.name for field in fields(Tower))


def find_model(store: Store, name: str) -> Model:
    """The model `name`: ./jobs/NAME.toml, else the packaged job, else what the catalog recorded; or a job by its path.

    The model of a job that trains is what its training left in this store.

    Raises:
        NotFoundError: nothing has this name; with the nearest one.
        ModelError: a job and a recorded model share the name and mean two different things, or the job's training has
            not given a model yet.
    """
    if name not in job_files():
        recorded = _recorded(store)
        if name in recorded:
            return _model(recorded[name])
        if not is_path(name):
            message = "'clipstore model add' records one, and so does a job file jobs/NAME.toml"
            raise NotFoundError.of("model", name, {*job_files(), *recorded}, otherwise=message)
    job = find_job(store, name)
    if awaits_training(store, job):
        message = f"{job.model.name} is not trained in this store yet: run 'clipstore train --model {name}' first"
        raise ModelError(message)
    return job_model(store, job)


def model_name(store: Store, word: str) -> str:
    """The name of a model given by name or by the path of its job file; a name is not looked up.

    Raises:
        NotFoundError: there is no such job file.
        JobError, ModelError: as `find_job` does.
    """
    return find_job(store, word).model.name if is_path(word) else word


def awaits_training(store: Store, job: Job) -> bool:
    """Whether a job's model is still to be trained."""
    return bool(job.training) and not Path(job_model(store, job).adapter or "").is_dir()


def find_job(store: Store, name: str) -> Job:
    """The job `name`, given by name or by path (see `job_file`).

    Raises:
        NotFoundError: there is no such job; with the nearest one.
        JobError: it cannot be read, or another job has its name and says something else.
        ModelError: a recorded model has the name and means something else.
    """
    job = read_job(job_file(name))
    other = job_files().get(job.model.name)
    if other and replace(read_job(other), file=job.file) != job:
        message = f"{job.file} and {other} are two jobs of one name: rename one, so that the name means one thing"
        raise JobError(message)
    check_name_conflict(store, job_model(store, job), job.file)
    return job


def job_model(store: Store, job: Job) -> Model:
    """The model that a job names; where the job trains, with the adapter that its training leaves in the store."""
    return replace(job.model, adapter=str(store.adapters / job.model.name / BEST)) if job.training else job.model


def base_model(store: Store, job: Job) -> Model:
    """The model that a job's training begins with: another name for the same base, prompt and cleaning, so that its
    vectors are shared; where there is none, NAME.base, which is recorded.
    """
    for name in sorted(job_files().keys() | _recorded(store).keys()):
        with suppress(JobError, ModelError):  # a job that cannot be read is none to share with
            model = find_model(store, name)
            if model == replace(job.model, name=name):
                return model
    model = replace(job.model, name=f"{job.model.name}.base")
    row = _recorded(store).get(model.name)
    if row and _model(row) != model:
        message = (
            f"the base of the job {job.file} is to be recorded as {model.name!r}, but the store recorded "
            f"{_other(row, model)} under that name: 'clipstore model remove {model.name}', or rename the job"
        )
        raise ModelError(message)
    with store.catalog.write() as session:
        record_model(session, model, origin="added")
    return model


def check_name_conflict(store: Store, model: Model, file: Path) -> None:
    """Refuse a job whose name is that of a recorded model which means something else.

    Raises:
        ModelError: with what differs.
    """
    problem = _two_meanings(_recorded(store).get(model.name), model, file)
    if problem:
        raise ModelError(problem)


def _two_meanings(row: Row | None, model: Model, file: Path) -> str | None:
    """What is wrong where a job's model and a recorded one of its name differ; None: nothing is.

    A job file of this folder may have been edited since its model was recorded. A packaged job never is: there the
    model is that of another folder's file. The store's own folder may have another path by now.
    """
    if not row or _model(row) == model:
        return None
    if row["origin"] == "job":
        if not is_packaged(file) or _model(row) == replace(model, adapter=row["adapter"]):
            return None
        return (
            f"{model.name!r} means two things, the packaged job {file} and a job file of another folder that the store "
            f"recorded, with {_other(row, model)}: work in that folder, or 'clipstore model remove {model.name}'"
        )
    return (
        f"{model.name!r} means two things, the job {file} and another model that the store recorded, with "
        f"{_other(row, model)}: rename the job, or remove the recorded one with 'clipstore model remove {model.name}'"
    )


def _other(row: Row, model: Model) -> str:
    """Where a recorded model is not as `model` is: the recorded values, and those of the model."""
    return " and ".join(
        f"{key} {row[key]!r} (not {getattr(model, key)!r})" for key in _MODEL_FIELDS if row[key] != getattr(model, key)
    )


def add_model(
    store: Store,
    name: str,
    *,
    base: str,
    family: str = "clip",
    adapter: str | None = None,
    exif_orientation: bool = False,
    on_warning: Callable[[str], None] = lambda _warning: None,
) -> Model:
    """Record a model, local folders by their absolute path; the same again changes nothing.

    The name of a job, of this folder or packaged, means that job: the very model of it is not recorded a second time.
    An adapter that clipstore trained brings the list of the photos that it was trained on.

    Raises:
        ModelError: the name is a job's or another model's, or the model's files cannot be used.
        JobError: a value is out of range.
    """
    check_name("model", name)
    base, adapter = _absolute(base), adapter and _absolute(adapter)
    model = checked_model(
        name=name,
        where=f"model add {name}",
        base=base,
        family=family,
        adapter=adapter,
        exif_orientation=exif_orientation,
    )
    job = job_files().get(name)
    if job and job_model(store, read_job(job)) != model:
        message = f"{name!r} is the name of the job {job}, which is another model: choose another name"
        raise ModelError(message)
    if job:
        return model
    for warning in check_model(model):
        on_warning(warning)
    with store.catalog.write(create=True) as session:
        row = session.row("model/find", name=name)
        if row and _model(row) != model:
            message = f"{name!r} is recorded already, with {_other(row, model)}: choose another name"
            raise ModelError(message)
        record_model(session, model, origin="added")
    return model


def record_training(store: Store, name: str, splits: Iterable[str]) -> Row:
    """Record that a model was trained on the images of some splits; how many images it was trained on by now.

    Raises:
        NotFoundError: no such model or split.
    """
    model = find_model(store, name)
    with store.catalog.write() as session:
        row = session.row("model/find", name=model.name)
        model_id = row["model_id"] if row else record_model(session, model, origin="job")
        for split in splits:
            session.run("model/add_training_images", model_id=model_id, split_id=split_id(session, split))
        count = session.rows("model/training_images", model_id=model_id)[0]["training_images"]
    return {"model": model.name, "training_images": count}


def list_models(store: Store) -> list[Row]:
    """Every model that can be named, with where the name comes from, and the "problem" of one that cannot be used."""
    recorded = _recorded(store)
    rows = {name: {"from": row["origin"], "problem": None, **_described(_model(row))} for name, row in recorded.items()}
    for name, file in job_files().items():
        try:
            job = read_job(file)
            model = job_model(store, job)
            problem = _two_meanings(recorded.get(name), model, file) or (
                "not trained yet" if awaits_training(store, job) else None
            )
            rows[name] = {"from": str(file), "problem": problem, **_described(model)}
        except JobError as error:
            rows[name] = {"from": str(file), "problem": str(error), **dict.fromkeys(_MODEL_FIELDS[1:])}
    return [{"name": name, **rows[name]} for name in sorted(rows)]


def _described(model: Model) -> Row:
    return {name: value for name, value in asdict(model).items() if name != "name"}


def _absolute(place: str) -> str:
    folder = Path(place).expanduser()
    return str(folder.absolute()) if folder.is_dir() else place


def show_model(store: Store, name: str) -> Row:
    """A model's description, where its name comes from, and what the store holds of each of its towers."""
    named = name in job_files() or (is_path(name) and name not in _recorded(store))
    job = find_job(store, name) if named else None
    model = job_model(store, job) if job else find_model(store, name)
    towers: list[Row] = []
    row: Row | None = None
    with suppress(NotFoundError), store.catalog.read() as session:  # a model can be named before there is a store
        row = session.row("model/find", name=model.name)
        towers = session.rows("model/holdings", model_id=row["model_id"]) if row else []
    origin = str(job.file) if job else row and row["origin"]
    return asdict(model) | {"from": origin, "towers": towers}


def record_model(session: Session, model: Model, *, origin: str) -> int:
    """Record or update a model's description; its id, which stays the same."""
    row = session.row("model/find", name=model.name)
    if row and _model(row) == model:
        return int(row["model_id"])
    new = session.rows("model/next_id")[0]["model_id"]
    if row:
        session.run("model/delete", model_id=row["model_id"])
    model_id = int(row["model_id"] if row else new)
    session.run("model/add", model_id=model_id, origin=origin, **asdict(model))
    if not row:
        _note_photos(session, model, model_id)
    return model_id


def _note_photos(session: Session, model: Model, model_id: int) -> None:
    """Record the photos that the adapter of a model was trained on, where it comes with their list."""
    photos = Path(model.adapter or "") / TRAINING_IMAGES
    if model.adapter and photos.is_file():
        session.stage(staged_contents=pa.table({"content": photos.read_text(encoding="utf-8").split()}))
        session.run("model/add_training_contents", model_id=model_id)


def record_towers(session: Session, model_id: int, towers: tuple[Tower, ...], key: str) -> None:
    """Make these the current towers of a model."""
    session.run("model/delete_towers", model_id=model_id)
    for tower in towers:
        session.run("model/add_tower", model_id=model_id, files_key=key, **asdict(tower))


def current_towers(session: Session, model_id: int) -> tuple[Tower, ...]:
    """The towers that the catalog has as current: image, then text; none before the first embed."""
    return tuple(_tower(row) for row in session.rows("model/towers", model_id=model_id))


def model_towers(
    store: Store, model: Model, precision: str, device: str | None = None
) -> tuple[tuple[Tower, ...], str]:
    """A model's towers at a precision, and the key of the files that they hang on.

    Files are read only when their size or time has changed since the towers were recorded. `precision` "auto" keeps
    what the model was embedded with, or else a model of the same base, so that they share what they have in common;
    else it is the best of the device.

    Raises:
        ModelError: the model's files cannot be had, or are not what they should be.
    """
    with store.catalog.read() as session:
        row = session.row("model/find", name=model.name)
        rows = session.rows("model/towers", model_id=row["model_id"]) if row else []
        kin = session.row("model/precision", model=model.name, family=model.family, base=model.base)
    if precision == "auto":
        precision = kin["precision"] if kin else best_precision(checked_device(device))
    key = files_key(model, precision)
    if rows and rows[0]["files_key"] == key:
        return tuple(_tower(tower) for tower in rows), key
    return _stored_towers(store, model, describe(model, precision)), key


def _stored_towers(store: Store, model: Model, towers: tuple[Tower, ...]) -> tuple[Tower, ...]:
    """The towers under the fingerprints that the store has shards of: those of a former scheme stay as they are."""
    former = v1_fingerprints(model, towers[0].precision)
    with store.catalog.read() as session:
        stored = {row["fingerprint"] for row in session.rows("model/shard_fingerprints")}

    def chosen(own: str, part: str) -> str:
        return former[part] if own not in stored and former.get(part) in stored else own

    return tuple(
        replace(
            tower,
            fingerprint=chosen(tower.fingerprint, tower.tower),
            backbone=tower.backbone and chosen(tower.backbone, "backbone"),
        )
        for tower in towers
    )


def has_changed(session: Session, row: Row, model: Model) -> bool:
    """Whether a recorded model's job or files are no longer those whose towers are recorded.

    Files that were moved, copied or touched are hashed again. A model whose files are gone has not changed: its vectors
    are all that is left of it.
    """
    recorded = _model(row)
    towers = current_towers(session, row["model_id"])
    if not towers or model.family == IMPORTED:
        return recorded != model
    precision = towers[0].precision
    try:
        key = files_key(model, precision, fetch=False)
    except ModelError:
        return replace(recorded, adapter=_in_store(recorded)) != replace(model, adapter=_in_store(model))
    if key == session.rows("model/towers", model_id=row["model_id"])[0]["files_key"]:
        return False
    try:
        current = describe(model, precision, fetch=False)
    except ModelError:
        return True
    other = [tower for tower, now in zip(towers, current, strict=True) if tower.fingerprint != now.fingerprint]
    if not other:  # most often: the former scheme need not be computed
        return False
    former = v1_fingerprints(model, precision)
    return any(tower.fingerprint != former.get(tower.tower) for tower in other)


def _in_store(model: Model) -> str | None:
    """A model's adapter without the place of the store that trained it."""
    place = Path(model.adapter or "")
    return str(Path(*place.parts[-3:])) if place.parts[-3:] == ("adapters", model.name, BEST) else model.adapter


def _recorded(store: Store) -> dict[str, Row]:
    recorded: dict[str, Row] = {}
    with suppress(NotFoundError), store.catalog.read() as session:  # likewise
        recorded = {row["name"]: row for row in session.rows("model/list")}
    for name, row in recorded.items():
        own = store.adapters / name / BEST
        if row["adapter"] and Path(row["adapter"]).parts[-3:] == own.parts[-3:] and own.is_dir():
            row["adapter"] = str(own)  # the store was moved, or copied
    return recorded


def _model(row: Row) -> Model:
    return Model(**{name: row[name] for name in _MODEL_FIELDS})


def _tower(row: Row) -> Tower:
    return Tower(**{name: row[name] for name in _TOWER_FIELDS})
