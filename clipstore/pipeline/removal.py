"""Remove models, splits, datasets and evaluations from the catalog, with everything that depends on them.

Vectors remain in their shards: `clipstore gc` removes those of fingerprints that no model has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from clipstore.catalog import Session
from clipstore.errors import NotFoundError, RemovalError, is_path_name
from clipstore.files import check_removable, remove_folder
from clipstore.jobs import is_path, job_file, job_files
from clipstore.records import Row
from clipstore.store.classifications import delete_classifications
from clipstore.store.evaluations import delete_evaluations
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import training_lock
from clipstore.store.recovery import save_records

# The statements that remove the images in the table removed_images, and what the removed rows are called.
_IMAGE_STEPS = (
    ("remove/save_training_contents", None),
    ("remove/delete_training_images", None),
    ("remove/delete_captions", "captions"),
    ("remove/delete_image_categories", None),
    ("remove/delete_extra_positives", None),
    ("remove/delete_hard_pairs", None),
    ("remove/delete_images", "images"),
)


@dataclass(kw_only=True)
class Removal:
    """The result of a removal, or of its dry run.

    Attributes:
        what: what was removed, such as "the model full".
        removed: the number of rows or files removed with it, by description.
        remains: what was not removed, a sentence each.
    """

    what: str
    removed: dict[str, int] = field(default_factory=dict)
    remains: list[str] = field(default_factory=list)

    def row(self) -> Row:
        """The result as `--json` prints it."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The result as lines of text."""
        counts = ", ".join(
            f"{count:,} {description.removesuffix('s') if count == 1 else description}"
            for description, count in self.removed.items()
            if count
        )
        yield f"{self.what}: {counts or 'nothing else'}"
        yield from (f"remains: {sentence}" for sentence in self.remains)


def remove_model(store: Store, name: str, *, adapter: bool = False, dry_run: bool = False) -> Removal:
    """Remove a model with its evaluations and its training record; with `adapter`, STORE/adapters/NAME too.

    Raises:
        NotFoundError: the store has no such model.
        TrainingError: it is being trained.
        OSError: its adapter is a symbolic link (with `adapter`).
    """
    name = job_file(name).stem if is_path(name) else name
    folder = store.adapter(name) if is_path_name(name) else None  # an earlier version allowed other job names
    if folder and adapter:
        check_removable(folder)
    with _training_locked(store, name):
        with store.catalog.write(commit=not dry_run) as session:
            row = session.row("model/find", name=name)
            if row is None:
                raise _unknown_model(session, name)
            removal = Removal(what=f"the model {name}", remains=_remaining_shards(session, row["model_id"]))
            _remove_evaluations(session, session.rows("evaluate/of_model", model_id=row["model_id"]), removal)
            _remove_classifications(session, session.rows("zeroshot/of_model", model_id=row["model_id"]), removal)
            removal.removed["towers"] = session.run("model/delete_towers", model_id=row["model_id"])
            session.run("rerank/delete_head", model_id=row["model_id"])
            for statement in ("model/delete_training_images", "model/delete_training_contents"):
                count = session.run(statement, model_id=row["model_id"])
                removal.removed["training images"] = removal.removed.get("training images", 0) + count
            session.run("model/delete", model_id=row["model_id"])
            if not dry_run:
                save_records(session, store, "models", "evaluations")
        if folder and folder.is_dir() and adapter:
            removal.removed["adapter files"] = sum(file.is_file() for file in folder.rglob("*"))
            if not dry_run:
                remove_folder(folder)
        elif folder and folder.is_dir():
            removal.remains.append(f"its adapter {folder}; --adapter removes it too")
    if name in job_files():
        removal.remains.append(f"the job {job_files()[name]}, which defines {name!r} from now on")
    return removal


def remove_split(store: Store, name: str, *, dry_run: bool = False) -> Removal:
    """Remove a split of a dataset, or a group of drawn splits by the name of the group, with their evaluations.

    Images in no other split, and their captions, are removed too.

    Raises:
        NotFoundError: there is no such split.
        RemovalError: other splits were drawn from it, it is one of a group of drawn splits, it is the only split of its
            dataset, or the name is that of a dataset.
    """
    with store.catalog.write(commit=not dry_run) as session:
        rows = session.rows("remove/splits_named", name=name)
        if not rows:
            groups = {row["name"].split("/")[0] for row in session.rows("split/list") if row["drawn_from"]}
            names = {row["name"] for row in session.rows("split/list")}
            raise NotFoundError.of("split", name, names | groups, hint="'clipstore query splits' lists them")
        _check_split(session, name, rows)
        ids = [row["split_id"] for row in rows]
        removal = Removal(what=" and ".join(row["name"] for row in rows))
        _remove_split_evaluations(session, ids, removal)
        session.run("remove/find_images_of_splits", splits=ids)
        _remove_splits_and_images(session, ids, removal)
        if not removal.removed["images"]:
            removal.remains.append(f"its images and captions, in other splits of {rows[0]['dataset']}")
        else:
            removal.remains.append("their vectors, if any: they are reused when the images are ingested again")
        if not dry_run:
            save_records(session, store)
    return removal


def remove_dataset(store: Store, name: str, *, dry_run: bool = False) -> Removal:
    """Remove a dataset with its images, captions, categories, splits (including drawn ones) and evaluations.

    Raises:
        NotFoundError: there is no such dataset.
    """
    with store.catalog.write(commit=not dry_run) as session:
        names = [row["dataset"] for row in session.rows("ingest/datasets")]
        if name not in names:
            raise NotFoundError.of("dataset", name, names, hint="'clipstore dataset list' lists them")
        splits = session.rows("remove/splits_of_dataset", dataset=name)
        removal = Removal(what=f"the dataset {name}")
        ids = [row["split_id"] for row in splits]
        _remove_split_evaluations(session, ids, removal)
        session.run("remove/find_images_of_dataset", dataset=name)
        _remove_splits_and_images(session, ids, removal)
        removal.removed["categories"] = session.run("remove/delete_categories", dataset=name)
        session.run("remove/delete_dataset", dataset=name)
        if not dry_run:
            save_records(session, store)
        if splits:
            removal.what += f" with {', '.join(row['name'] for row in splits)}"
    removal.remains.append("its files")
    removal.remains.append("the vectors of its items, if any: they are reused when it is ingested again")
    return removal


def remove_evaluations(
    store: Store,
    *,
    model: str | None = None,
    split: str | None = None,
    protocol: str | None = None,
    dry_run: bool = False,
) -> Removal:
    """Remove the evaluations that match a model, a split and a protocol (None: any), with their ranks and hits.

    Raises:
        RemovalError: all three are None.
        NotFoundError: there is no such split or no such evaluation.
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
            stored = sorted({f"{row['model']} on {row['split']} ({row['protocol']})" for row in every})
            selection = ", ".join(word for word in (model, split, protocol) if word)
            message = f"no evaluation of {selection} is stored (stored: {'; '.join(stored[:6]) or 'none'})"
            raise NotFoundError(message)
        removal = Removal(what="; ".join(_evaluation_name(row) for row in rows))
        _remove_evaluations(session, rows, removal)
        if not dry_run:
            save_records(session, store, "evaluations")
    removal.remains.append("the vectors: 'clipstore eval' evaluates them again")
    return removal


def remove_classifications(
    store: Store, *, model: str | None = None, split: str | None = None, dry_run: bool = False
) -> Removal:
    """Remove the zero-shot classifications that match a model and a split (None: any), with their ranks and scores.

    Raises:
        RemovalError: both are None.
        NotFoundError: there is no such split or no such classification.
    """
    if not (model or split):
        message = "which classifications? name a --model or a --split"
        raise RemovalError(message)
    model = job_file(model).stem if model and is_path(model) else model
    with store.catalog.write(commit=not dry_run) as session:
        if split:
            split_id(session, split)
        rows = session.rows("remove/classifications", model=model, split=split)
        if not rows:
            message = f"no zero-shot classification of {' on '.join(filter(None, (model, split)))} is stored"
            raise NotFoundError(message)
        names = [f"{row['model']} on {row['split']} ({row['labels']}, {row['template']!r})" for row in rows]
        removal = Removal(what="; ".join(names))
        _remove_classifications(session, rows, removal)
        if not dry_run:
            save_records(session, store, "evaluations")
    removal.remains.append("the vectors of images and of texts of classes: 'clipstore zeroshot' uses them again")
    return removal


def _evaluation_name(row: Row) -> str:
    options = f"{row['protocol']}, {row['caption_set']} captions{', unseen' if row['unseen'] else ''}"
    return f"{row['model']} on {row['split']} ({options})"


@contextmanager
def _training_locked(store: Store, name: str) -> Iterator[None]:
    """Hold the training lock of a model that this store trains; do nothing for another."""
    if not is_path_name(name) or not ((store.adapters / f".{name}.lock").exists() or store.adapter(name).exists()):
        yield
        return
    with training_lock(store, name):
        yield


def _unknown_model(session: Session, name: str) -> NotFoundError:
    if name in job_files():
        return NotFoundError(
            f"the store has nothing of {name}, which is the job {job_files()[name]}: nothing to remove"
        )
    names = [row["name"] for row in session.rows("model/list")]
    return NotFoundError.of("model", name, names, hint="'clipstore model list' lists them")


def _remaining_shards(session: Session, model_id: int) -> list[str]:
    """A sentence on the shards of each fingerprint of a model."""
    remains = []
    towers = session.rows("remove/model_shards", model_id=model_id)
    parts = [(f"{row['items']:,} {row['kind']} of its {row['tower']} tower", row) for row in towers]
    scores = session.rows("remove/model_scores", model_id=model_id)
    for words, row in [*parts, *((f"{row['pairs']:,} scores of its matching head", row) for row in scores)]:
        items, others = f"{words} ({row['bytes'] / 1e6:.1f} MB)", row["shared_with"]
        remains.append(f"{items}, {'shared with ' + ', '.join(others) if others else 'until clipstore gc --delete'}")
    return remains


def _remove_evaluations(session: Session, rows: Iterable[Row], removal: Removal) -> None:
    """Remove evaluations, and count them with their ranks and hits."""
    ids = [row["evaluation_id"] for row in rows]
    removal.removed |= session.rows("remove/evaluation_sizes", evaluations=ids)[0]
    delete_evaluations(session, ids)


def _remove_classifications(session: Session, rows: Iterable[Row], removal: Removal) -> None:
    """Remove zero-shot classifications, and count them if there are any."""
    ids = [row["classification_id"] for row in rows]
    delete_classifications(session, ids)
    removal.removed |= {"classifications": len(ids)} if ids else {}


def _check_split(session: Session, name: str, rows: list[Row]) -> None:
    """Refuse the removal of a split on which others depend, or of a name that is not that of a split."""
    first = rows[0]
    if first["drawn_from"] and "/" in name:
        others = [row["name"] for row in session.rows("remove/group_siblings", name=name)]
        if others:
            group = name.split("/", maxsplit=1)[0]
            siblings = " and ".join(others)
            message = (
                f"{name} was drawn together with {siblings}: remove the group with 'clipstore split remove {group}'"
            )
            raise RemovalError(message)
    if not first["drawn_from"] and "/" not in name:
        message = f"{name!r} is a dataset: 'clipstore dataset remove {name}' removes it, or name one split of it"
        raise RemovalError(message)
    drawn = [row["name"] for row in session.rows("remove/drawn_from", splits=[row["split_id"] for row in rows])]
    if drawn:
        groups = " and ".join(sorted({f"'clipstore split remove {split.split('/')[0]}'" for split in drawn}))
        message = f"{', '.join(drawn)} were drawn from {name}: remove them first with {groups}"
        raise RemovalError(message)
    dataset = first["dataset"]
    undrawn = [row for row in session.rows("remove/splits_of_dataset", dataset=dataset) if not row["drawn_from"]]
    if not first["drawn_from"] and len(undrawn) == 1:
        message = f"{name} is the only split of {dataset}: 'clipstore dataset remove {dataset}' removes both"
        raise RemovalError(message)


def _remove_split_evaluations(session: Session, ids: list[int], removal: Removal) -> None:
    """Remove the evaluations on some splits, and count the splits."""
    _remove_evaluations(session, session.rows("remove/evaluations_of_splits", splits=ids), removal)
    _remove_classifications(session, session.rows("zeroshot/of_splits", splits=ids), removal)
    removal.removed["splits"] = len(ids)


def _remove_splits_and_images(session: Session, ids: list[int], removal: Removal) -> None:
    """Remove splits, and the images in the table removed_images with their captions."""
    session.run("remove/delete_split_images", splits=ids)
    session.run("remove/delete_splits", splits=ids)
    for statement, description in _IMAGE_STEPS:
        count = session.run(statement)
        if description:
            removal.removed[description] = count
