"""The records in the store: small JSON files with what the catalog knows and no other file does.

STORE/records/datasets/NAME.json, images/NAME.json, splits/GROUP.json, models/NAME.json, fingerprints.json and
evaluations.json. They are a function of the catalog, written by every command that changes it, before it commits. With
the sources of the datasets (captions, categories) and the shards (vectors, failures) they give the catalog again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import CatalogError, is_path_name
from clipstore.files import read_regular, whole_file, write_whole
from clipstore.json_decoding import decode_json
from clipstore.records import IMPORTED, Row
from clipstore.spool import BATCH_ROWS
from clipstore.store.digests import split_digest
from clipstore.store.layout import Store
from clipstore.store.recovery_checks import check_records
from clipstore.store.recovery_images import ImageRows
from clipstore.store.recovery_records import (
    CategoryRecord,
    ClassificationRecord,
    DatasetRecord,
    EvaluationRecord,
    EvaluationsRecord,
    FingerprintsRecord,
    GroupRecord,
    HeadRecord,
    ImagesRecord,
    ModelRecord,
    PrecisionRecord,
    ProbeRecord,
    Records,
    SplitRecord,
    StoreRecord,
    TowerRecord,
)
from clipstore.store.settings import ensure_settings

FORMAT = 1

Record = msgspec.Struct | ImageRows

Kind = Literal["datasets", "images", "splits", "models", "fingerprints", "evaluations"]
KINDS: tuple[Kind, ...] = ("datasets", "images", "splits", "models", "fingerprints", "evaluations")

_STORE = "store.json"
_STALE = "images.stale"  # present while the records of images are older than the catalog

_log = logging.getLogger(__name__)


def save_records(session: Session, store: Store, *kinds: Kind) -> None:
    """Write the records of some kinds (none: all) that differ from the state of a writing session.

    Call it at the end of the session, before the commit: if the process is killed between the two, the records have
    what the interrupted command would have stored, and lose nothing. A store of an earlier version gets all
    records, and its settings.

    Raises:
        StoreError: the settings of the store cannot be read.
        OSError: a file cannot be written.
    """
    ensure_settings(store)
    folder = store.records
    if session.is_new and folder.exists() and not _are_those_of(session, folder):
        _keep_aside(folder)
    first = not (folder / _STORE).exists()
    for kind in KINDS if first or not kinds else kinds:
        _save_kind(folder, kind, _READERS[kind](session))
        if kind == "images":
            (folder / _STALE).unlink(missing_ok=True)
    if first:
        write_whole(folder / _STORE, _encode(StoreRecord(format=FORMAT, release=version("clipstore"))))


def mark_images_stale(store: Store) -> None:
    """Note that the records of images are older than the catalog, until they are saved."""
    store.records.mkdir(parents=True, exist_ok=True)
    (store.records / _STALE).touch()


def images_are_stale(store: Store) -> bool:
    """Whether the records of images may be older than the catalog, also because a process was killed."""
    return (store.records / _STALE).exists()


def has_records(store: Store) -> bool:
    """Whether the records of a store are complete."""
    return (store.records / _STORE).exists()


def load_records(store: Store) -> Records:
    """All records of a store.

    Raises:
        CatalogError: a record cannot be read, or is of a newer format; the message names the file.
    """
    folder = store.records
    stored = _decode(folder / _STORE, StoreRecord)
    if stored.format > FORMAT:
        message = (
            f"the records in {folder} have format {stored.format}, and this clipstore reads formats up to {FORMAT}: "
            f"install clipstore {stored.release} or a later one"
        )
        raise CatalogError(message)
    files = {
        "datasets": _decode_all(folder / "datasets", DatasetRecord),
        "images": _decode_all(folder / "images", ImagesRecord),
        "splits": _decode_all(folder / "splits", GroupRecord),
        "models": _decode_all(folder / "models", ModelRecord),
    }
    records = Records(
        **{kind: list(records.values()) for kind, records in files.items()},
        fingerprints=_decode(folder / "fingerprints.json", FingerprintsRecord),
        evaluations=_decode(folder / "evaluations.json", EvaluationsRecord),
    )
    check_records(folder, records)
    _check_file_names(files)
    return records


def _check_file_names(files: Mapping[str, Mapping[Path, Any]]) -> None:
    """Refuse a record in a file of another name: a copy of another record, whose rows would be restored twice.

    Raises:
        CatalogError: there is one; the message names the file.
    """
    datasets = {record.dataset_id: record.name for record in files["datasets"].values()}
    names = [(file, record.name) for kind in ("datasets", "models") for file, record in files[kind].items()]
    names += [(file, datasets.get(record.dataset_id, "")) for file, record in files["images"].items()]
    names += [(file, split.name.split("/")[0]) for file, group in files["splits"].items() for split in group.splits]
    for file, name in names:
        if file.stem != _file_name(name):
            message = (
                f"the record {file} is that of {name!r}, as its content says: rename it, or remove it if it is a copy"
            )
            raise CatalogError(message)


def current_records(session: Session) -> dict[str, bytes]:
    """The contents of all records as the catalog of a session gives them, by path below the folder of the records."""
    return {
        str(file): _encode(record)
        for kind in KINDS
        for file, record in _files(Path(), kind, _READERS[kind](session)).items()
    }


# --- reading the catalog


def _datasets(session: Session) -> dict[str, DatasetRecord]:
    splits = [split for split in _splits(session) if split.drawn_from is None]
    for split in splits:
        split.digest = split_digest(session, split.split_id)
    return {row["name"]: _dataset(session, row, splits) for row in session.rows("recovery/datasets")}


def _dataset(session: Session, row: Row, splits: list[SplitRecord]) -> DatasetRecord:
    key = {"dataset_id": row["dataset_id"]}
    return DatasetRecord(
        **row,
        splits=[split for split in splits if split.dataset_id == row["dataset_id"]],
        categories=[CategoryRecord(**category) for category in session.rows("recovery/categories", **key)],
        caption_ids=_runs(batch["caption_id"].to_numpy() for batch in session.batches("recovery/caption_ids", **key)),
    )


def _runs(parts: Iterable[NDArray[np.int64]]) -> list[tuple[int, int]]:
    """Runs (first number, length) of consecutive numbers, which are given in parts."""
    runs: list[tuple[int, int]] = []
    for numbers in parts:
        starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 2) != 1)
        lengths = np.diff(starts, append=len(numbers))
        for first, length in zip(numbers[starts].tolist(), lengths.tolist(), strict=True):
            if runs and sum(runs[-1]) == first:
                runs[-1] = runs[-1][0], runs[-1][1] + length
            else:
                runs.append((first, length))
    return runs


def _images(session: Session) -> dict[str, ImageRows]:
    return {row["name"]: ImageRows.of(session, row["dataset_id"]) for row in session.rows("recovery/datasets")}


def _groups(session: Session) -> dict[str, GroupRecord]:
    groups: dict[str, GroupRecord] = {}
    for split in _splits(session):
        if split.drawn_from is not None:
            groups.setdefault(split.name.split("/")[0], GroupRecord(splits=[])).splits.append(split)
    return groups


def _splits(session: Session) -> list[SplitRecord]:
    return [_split(session, row) for row in session.rows("recovery/splits")]


def _split(session: Session, row: Row) -> SplitRecord:
    table = session.table("recovery/split_images", split_id=row["split_id"])
    images, positions = table["image_id"].to_numpy(), table["position"].to_numpy()
    ascending = np.array_equal(positions, np.arange(len(positions)))
    return SplitRecord(**row, images=_raw(images), positions=None if ascending else _raw(positions))


def _raw(numbers: NDArray[np.int64]) -> Any:
    """Numbers as msgspec encodes a list of them: objects for the images of a large split would fill the memory."""
    starts = range(0, len(numbers), BATCH_ROWS)
    texts = (msgspec.json.encode(numbers[start : start + BATCH_ROWS].tolist())[1:-1] for start in starts)
    return msgspec.Raw(b"[" + b",".join(texts) + b"]")


def _models(session: Session) -> dict[str, ModelRecord]:
    return {row["name"]: _model(session, row) for row in session.rows("model/list")}


def _model(session: Session, row: Row) -> ModelRecord:
    key = {"model_id": row["model_id"]}
    towers = [TowerRecord(**tower) for tower in session.rows("recovery/towers", **key)]
    fingerprints = [tower.fingerprint for tower in towers] if row["family"] == IMPORTED else []
    head = session.row("rerank/head", **key)
    return ModelRecord(
        **row,
        towers=towers,
        training_images=session.table("recovery/training_images", **key)["image_id"].to_pylist(),
        training_contents=session.table("recovery/training_contents", **key)["content"].to_pylist(),
        shards=session.table("recovery/shards_of", fingerprints=fingerprints)["file"].to_pylist(),
        matching_head=HeadRecord(**head) if head else None,
    )


def _fingerprints(session: Session) -> FingerprintsRecord:
    return FingerprintsRecord(
        probes=[ProbeRecord(**row) for row in session.rows("recovery/probes")],
        precision_checks=[PrecisionRecord(**row) for row in session.rows("recovery/precision_checks")],
    )


def _evaluations(session: Session) -> EvaluationsRecord:
    return EvaluationsRecord(
        evaluations=[EvaluationRecord(**row) for row in session.rows("recovery/evaluations")],
        classifications=[ClassificationRecord(**row) for row in session.rows("recovery/classifications")],
    )


# A reader gives one record, or several by name, of which each has a file in a folder.
_READERS: Mapping[Kind, Callable[[Session], Record | Mapping[str, Record]]] = {
    "datasets": _datasets,
    "images": _images,
    "splits": _groups,
    "models": _models,
    "fingerprints": _fingerprints,
    "evaluations": _evaluations,
}


# --- files


def _save_kind(folder: Path, kind: Kind, records: Record | Mapping[str, Record]) -> None:
    """Write the records of one kind that have changed, and remove those of things that are gone."""
    files, several = _files(folder, kind, records), isinstance(records, Mapping)
    (folder / kind if several else folder).mkdir(parents=True, exist_ok=True)
    for file, record in files.items():
        if not _is_stored(file, record):
            with whole_file(file) as temporary, temporary.open("wb") as target:
                target.writelines(_pieces(record))
    for file in (folder / kind).glob("*.json") if several else ():
        if file not in files:
            file.unlink()


def _files(folder: Path, kind: Kind, records: Record | Mapping[str, Record]) -> dict[Path, Record]:
    if isinstance(records, Mapping):
        return {folder / kind / f"{_file_name(name)}.json": record for name, record in records.items()}
    return {folder / f"{kind}.json": records}


def _file_name(name: str) -> str:
    """The name of a record's file: a hash for a name of an earlier version that cannot be that of a file."""
    return name if is_path_name(name) else hashlib.sha256(name.encode()).hexdigest()


def _is_stored(file: Path, record: Record) -> bool:
    """Whether a file has the content of a record."""
    if not file.is_file():
        return False
    with file.open("rb") as stored:
        return all(stored.read(len(piece)) == piece for piece in _pieces(record)) and not stored.read(1)


def _encode(record: Record) -> bytes:
    return b"".join(_pieces(record))


def _pieces(record: Record) -> Iterator[bytes]:
    yield from record.pieces() if isinstance(record, ImageRows) else [msgspec.json.encode(record)]
    yield b"\n"


def _decode_all(folder: Path, kind: type[Any]) -> dict[Path, Any]:
    if not folder.is_dir():
        message = f"the records {folder} are missing: restore a copy of them, or of the catalog"
        raise CatalogError(message)
    return {file: _decode(file, kind) for file in sorted(folder.glob("*.json"))}


def _decode(file: Path, kind: type[Any]) -> Any:
    try:
        return decode_json(read_regular(file), kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"the record {file} cannot be read ({reason}): restore a copy of it, or of the catalog"
        raise CatalogError(message) from error


def _are_those_of(session: Session, folder: Path) -> bool:
    """Whether a folder has no records but those of a session, as an interrupted first ingest leaves them."""
    current = current_records(session)
    return all(
        current.get(str(file.relative_to(folder))) == file.read_bytes()
        for file in folder.rglob("*.json")
        if file.name != _STORE and file.is_file()
    )


def _keep_aside(folder: Path) -> None:
    """Rename the records of a catalog that is gone, because a new one is created."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.former-{number}")).exists():
        number += 1
    folder.rename(target)
    _log.warning("the catalog was missing and is created again: the records of the former one are kept in %s", target)
