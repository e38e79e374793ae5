"""Removing models, splits, data sets and evaluations from the catalog: what goes with each, and what remains.

Vectors stay in their shards: `clipstore gc` removes those of fingerprints that no model has.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from clipstore.catalog import Session
from clipstore.errors import NotFoundError, RemovalError
from clipstore.jobs import is_path, job_file, job_files
from clipstore.records import Row
from clipstore.store.evaluations import delete_evaluations
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import training_lock

# The statements of sql/remove.sql that remove the images in its table removed_images, and what their rows are called.
_OF_IMAGES = (
    ("remove/save_training_contents", None),
    ("remove/training_images", None),
    ("remove/captions", "captions"),
    ("remove/image_categories", None),
    ("remove/extra_positives", None),
    ("remove/images", "images"),
)


@dataclass(kw_only=True)
class Removal:
    """What was removed, or would be.

    Attributes:
        what: a phrase that names it, such as "the model full".
        removed: how many of what went with it.
        remains: sentences on what is still there.
    """

    what: str
    removed: dict[str, int] = field(default_factory=dict)
    remains: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """All of it as plain values."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """What goes, and what remains, a line each."""
        counted = ((count, what.removesuffix("s") if count == 1 else what) for what, count in self.removed.items())
        counts = ", ".join(f"{count:,} {what}" for count, what in counted if count)
        yield f"{self.what}: {counts or 'nothing goes with it'}"
        yield from (f"remains: {sentence}" for sentence in self.remains)


def remove_model(store: Store, name: str, *, adapter: bool = False, dry_run: bool = False) -> Removal:
    """Remove a model with its evaluations and what is known of its training; `adapter`: STORE/adapters/NAME too.

    Raises:
        NotFoundError: the store holds no such model.
        TrainingError: it is being trained.
    """
    name = job_file(name).stem if is_path(name) else name
    folder = store.adapters / name
    with _not_in_training(store, name):
        with store.catalog.write(commit=not dry_run) as session:
            row = session.row("model/find", name=name)
            if row is None:
                raise _no_model(session, name)
            removal = Removal(what=f"the model {name}", remains=_remaining(session, row["model_id"]))
            _forget(session, session.rows("evaluate/of_model", model_id=row["model_id"]), removal)
            removal.removed["towers"] = session.run("model/delete_towers", model_id=row["model_id"])
            for statement in ("model/delete_training_images", "model/delete_training_contents"):
                count = session.run(statement, model_id=row["model_id"])
                removal.removed["training images"] = removal.removed.get("training images", 0) + count
            session.run("model/delete", model_id=row["model_id"])
        if folder.is_dir() and adapter:
            removal.removed["adapter files"] = sum(file.is_file() for file in folder.rglob("*"))
            if not dry_run:
                shutil.rmtree(folder)
        elif folder.is_dir():
            removal.remains.append(f"its adapter {folder}; --adapter removes it too")
    if name in job_files():
        removal.remains.append(f"the job {job_files()[name]}, which is what {name!r} means from now on")
    return removal


def remove_split(store: Store, name: str, *, dry_run: bool = False) -> Removal:
    """Remove a split of a data set by its name, or a group of drawn splits by the group's, with their evaluations.

    Images that no other split has, and their captions, go too.

    Raises:
        NotFoundError: there is no such split.
        RemovalError: other splits were drawn from it, it was drawn together with others, it is the only one of its data
            set, or the name is a data set's.
    """
    with store.catalog.write(commit=not dry_run) as session:
        rows = session.rows("remove/splits_named", name=name)
        if not rows:
            groups = {row["name"].split("/")[0] for row in session.rows("split/list") if row["drawn_from"]}
            names = {row["name"] for row in session.rows("split/list")}
            raise NotFoundError.of("split", name, names | groups, otherwise="'clipstore query splits' lists them")
        _check_split(session, name, rows)
        ids = [row["split_id"] for row in rows]
        removal = Removal(what=" and ".join(row["name"] for row in rows))
        _remove_splits(session, ids, removal)
        session.run("remove/pick_images_of_splits", splits=ids)
        _remove_places(session, ids, removal)
        if not removal.removed["images"]:
            removal.remains.append(f"its images and captions, in other splits of {rows[0]['dataset']}")
        else:
            removal.remains.append(
                "vectors of them, if there are any: they are reused when the images are ingested again"
            )
    return removal


def remove_dataset(store: Store, name: str, *, dry_run: bool = False) -> Removal:
    """Remove a data set with its images, captions, categories, splits (those drawn from it too) and evaluations.

    Raises:
        NotFoundError: there is no such data set.
    """
    with store.catalog.write(commit=not dry_run) as session:
        names = [row["dataset"] for row in session.rows("ingest/datasets")]
        if name not in names:
            raise NotFoundError.of("data set", name, names, otherwise="'clipstore dataset list' lists them")
        splits = session.rows("remove/splits_of_dataset", dataset=name)
        removal = Removal(what=f"the data set {name}")
        _remove_splits(session, [row["split_id"] for row in splits], removal)
        session.run("remove/pick_images_of_dataset", dataset=name)
        _remove_places(session, [row["split_id"] for row in splits], removal)
        removal.removed["categories"] = session.run("remove/categories", dataset=name)
        session.run("remove/dataset", dataset=name)
        if splits:
            removal.what += f" with {', '.join(row['name'] for row in splits)}"
    removal.remains.append("its files, where they are")
    removal.remains.append("vectors of its items, if there are any: they are reused when it is ingested again")
    return removal


def remove_evaluations(
    store: Store,
    *,
    model: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    dry_run: bool = False,
) -> Removal:
    """Remove the evaluations of a model, a split and a protocol, as far as each is given, with their ranks and hits.

    Raises:
        RemovalError: nothing is given.
        NotFoundError: there is no such split, or no such evaluation.
    """
    if not (model or split or protocol):
        message = "which evaluations? name a --model, a --split or a --protocol"
        raise RemovalError(message)
    model = job_file(model).stem if model and is_path(model) else model
    with store.catalog.write(commit=not dry_run) as session:
        if split:
            split_id(session, split)
        rows = session.rows("remove/evaluations", model=model, split=split, protocol=protocol)
        if not rows:
            every = session.rows("remove/evaluations", model=None, split=None, protocol=None)
            kept = sorted({f"{row['model']} on {row['split']} ({row['protocol']})" for row in every})
            asked = ", ".join(word for word in (model, split, protocol) if word)
            message = f"no evaluation of {asked} is kept (kept: {'; '.join(kept[:6]) or 'none'})"
            raise NotFoundError(message)
        removal = Removal(what="; ".join(_named(row) for row in rows))
        _forget(session, rows, removal)
    removal.remains.append("the vectors: 'clipstore eval' measures again")
    return removal


def _named(row: Row) -> str:
    options = f"{row['protocol']}, {row['caption_set']} captions{', unseen' if row['unseen'] else ''}"
    return f"{row['model']} on {row['split']} ({options})"


@contextmanager
def _not_in_training(store: Store, name: str) -> Iterator[None]:
    """Hold the adapter of a model that this store trains; nothing for another."""
    if not (store.adapters / f".{name}.lock").exists() and not (store.adapters / name).exists():
        yield
        return
    with training_lock(store, name):
        yield


def _no_model(session: Session, name: str) -> NotFoundError:
    if name in job_files():
        return NotFoundError(
            f"the store holds nothing of {name}, which is the job {job_files()[name]}: nothing to remove"
        )
    names = [row["name"] for row in session.rows("model/list")]
    return NotFoundError.of("model", name, names, otherwise="'clipstore model list' lists them")


def _remaining(session: Session, model_id: int) -> list[str]:
    """Sentences on the shards of a model."""
    remains = []
    for row in session.rows("remove/model_shards", model_id=model_id):
        what = f"{row['items']:,} {row['kind']} of its {row['tower']} tower ({row['bytes'] / 1e6:.1f} MB)"
        others = row["shared_with"]
        remains.append(f"{what}, {'shared with ' + ', '.join(others) if others else 'until clipstore gc --delete'}")
    return remains


def _forget(session: Session, rows: Iterable[Row], removal: Removal) -> None:
    """Remove evaluations, and count what goes with them."""
    ids = [row["evaluation_id"] for row in rows]
    removal.removed |= session.rows("remove/evaluation_sizes", evaluations=ids)[0]
    delete_evaluations(session, ids)


def _check_split(session: Session, name: str, rows: list[Row]) -> None:
    first = rows[0]
    if first["drawn_from"] and "/" in name:
        others = [row["name"] for row in session.rows("remove/drawn_beside", name=name)]
        if others:
            group = name.split("/", maxsplit=1)[0]
            message = f"{name} was drawn together with {' and '.join(others)}: remove {group!r} whole"
            raise RemovalError(message)
    if not first["drawn_from"] and "/" not in name:
        message = f"{name!r} is a data set: 'clipstore dataset remove {name}' removes it, or name one split of it"
        raise RemovalError(message)
    drawn = [row["name"] for row in session.rows("remove/drawn_from", splits=[row["split_id"] for row in rows])]
    if drawn:
        groups = " and ".join(sorted({f"'clipstore split remove {one.split('/')[0]}'" for one in drawn}))
        message = f"{', '.join(drawn)} were drawn from {name}: first {groups}"
        raise RemovalError(message)
    own = [row for row in session.rows("remove/splits_of_dataset", dataset=first["dataset"]) if not row["drawn_from"]]
    if not first["drawn_from"] and len(own) == 1:
        dataset = first["dataset"]
        message = f"{name} is the only split of {dataset}: 'clipstore dataset remove {dataset}' removes both"
        raise RemovalError(message)


def _remove_splits(session: Session, ids: list[int], removal: Removal) -> None:
    """Remove the evaluations on some splits, and count the splits."""
    _forget(session, session.rows("remove/evaluations_of_splits", splits=ids), removal)
    removal.removed["splits"] = len(ids)


def _remove_places(session: Session, ids: list[int], removal: Removal) -> None:
    """Remove splits, and the images in removed_images with their captions."""
    session.run("remove/split_images", splits=ids)
    session.run("remove/splits", splits=ids)
    for step, what in _OF_IMAGES:
        count = session.run(step)
        if what:
            removal.removed[what] = count


def list_datasets(store: Store) -> list[Row]:
    """The data sets of a store: where each was ingested from, and what it holds.

    Raises:
        NotFoundError: there is no store.
    """
    with store.catalog.read() as session:
        return session.rows("ingest/datasets")
