"""`clipstore import`: vectors of another program as a model."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore import shards
from clipstore.catalog import Session
from clipstore.errors import ModelError, VectorError, check_name
from clipstore.files import check_regular
from clipstore.jobs import job_files
from clipstore.records import IMPORTED, Model, Row, Tower, TowerName
from clipstore.shards import ObjectStorage, Shard, ShardInfo, normalize, shard_file
from clipstore.store.evaluations import delete_model_evaluations
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import shard_write_lock
from clipstore.store.model_records import record_model, record_towers
from clipstore.store.recovery import save_records
from clipstore.store.registry import register
from clipstore.store.storage import shard_storage
from clipstore.store.towers import recorded_towers
from clipstore.waiting import wait_without_limit

Source = Path | NDArray[Any]  # a .npy file, or an array

_ROWS_PER_SHARD = 32768
_ROWS_PER_OBJECT = 8192  # on object storage, as those of `embed`
_UNIT_TOLERANCE = 1e-3  # a norm that differs more from 1 is counted as not unit


def import_vectors(
    store: Store, name: str, split: str, *, images: tuple[Source, Source], captions: tuple[Source, Source]
) -> list[Row]:
    """Import image and caption vectors as the model `name`.

    `images` and `captions` are vectors of shape (N, D), float16 to float64, and their N source ids. The items must be
    in `split`, but not all items of the split are needed. Vectors are stored with unit length. An item that was
    imported before under this name gets the new vector; if anything changed, the model's evaluations are removed.

    Returns, for each tower, the number of rows, of those that were not of unit length, and of zero vectors.

    Raises:
        VectorError: a file cannot be read, the shapes do not fit, a value is not finite, or an id is unknown or
            repeated.
        ModelError: the name belongs to a job or to a model that was not imported.
    """
    sides: dict[TowerName, tuple[NDArray[Any], list[str]]] = {
        "image": _read(*images, "images"),
        "text": _read(*captions, "captions"),
    }
    dims = {tower: rows.shape[1] for tower, (rows, _) in sides.items()}
    _check_widths(dims, _label(images[0], "images"), _label(captions[0], "captions"))
    with store.catalog.read() as session:
        keys = _content_keys(session, split)
        _check_name(session, name)
    store.catalog.check_writable()
    model = Model(name=name, family=IMPORTED, base="vectors made elsewhere")
    towers = tuple(_tower(name, tower, dims[tower]) for tower in sides)
    contents = {tower: _contents(ids, keys[tower], f"{split} has no {tower}") for tower, (_, ids) in sides.items()}
    with shard_write_lock(store):
        written: list[Shard] = []
        result: list[Row] = []
        for tower, (rows, _) in zip(towers, sides.values(), strict=True):
            tower_shards, counts = _write_shards(store, tower, model, rows, contents[tower.tower])
            written += tower_shards
            result.append({"model": name, "tower": tower.tower, "rows": len(rows), **counts})
        _record(store, model, towers, written)
    return result


def _record(store: Store, model: Model, towers: tuple[Tower, ...], written: list[Shard]) -> None:
    """Record the model and register its shards; remove its evaluations if anything changed."""
    with wait_without_limit(), store.catalog.write() as session:
        model_id = record_model(session, model, origin="imported")
        changed = recorded_towers(session, model_id) != towers
        record_towers(session, model_id, towers, "")
        if _register_new(session, written) or changed:
            delete_model_evaluations(session, model_id)
        save_records(session, store, "models", "evaluations")


def _read(vectors: Source, ids: Source, side: str) -> tuple[NDArray[Any], list[str]]:
    """Vectors of shape (N, D), memory-mapped if they are in a file, and their N source ids."""
    rows, names = _load(vectors), _load(ids)
    vectors_label, ids_label = _label(vectors, side), _label(ids, f"{side}' ids")
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating):
        message = f"{vectors_label} holds {rows.dtype} of shape {rows.shape}: vectors are floats of shape (N, D)"
        raise VectorError(message)
    if names.ndim != 1 or names.dtype.kind not in "iuU" or len(names) != len(rows):
        message = (
            f"{ids_label} holds {names.dtype} of shape {names.shape}: "
            f"ids are {len(rows)} integers or strings, one per row"
        )
        raise VectorError(message)
    listed = [str(name) for name in names.tolist()]
    repeated = next((name for name, times in Counter(listed).items() if times > 1), None)
    if repeated is not None:
        message = f"{ids_label} has the id {repeated} more than once: give each item one vector"
        raise VectorError(message)
    _check_finite(vectors_label, rows, listed)
    return rows, listed


def _check_widths(dims: dict[TowerName, int], images: str, captions: str) -> None:
    if dims["image"] != dims["text"]:
        message = f"{images} has width {dims['image']} and {captions} has {dims['text']}: both must be of one model"
        raise VectorError(message)


def _label(source: Source, name: str) -> str:
    """The name of a source in messages: its path, or that of the array."""
    return str(source) if isinstance(source, Path) else f"the array of {name}"


def _check_finite(label: str, rows: NDArray[Any], ids: list[str]) -> None:
    for start in range(0, len(rows), _ROWS_PER_SHARD):
        finite = np.isfinite(rows[start : start + _ROWS_PER_SHARD]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            message = f"{label}: vector {row}, of the id {ids[row]}, contains NaN or infinity: nothing was imported"
            raise VectorError(message)


# What numpy raises for files that are no arrays: it parses the header as a Python literal, by Python's tokenizer too.
_UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError, RecursionError, SyntaxError, TokenError,
)  # fmt: skip


def _load(source: Source) -> NDArray[Any]:
    if isinstance(source, np.ndarray):
        return source
    try:
        check_regular(source)
        _check_no_objects(source)
        with np.errstate(all="ignore"):  # numpy refuses a size that overflows, and would also warn
            array = np.load(source, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or "its header cannot be parsed"
        message = f"cannot read {source} as a .npy file: {reason}"
        raise VectorError(message) from error
    if not isinstance(array, np.ndarray):
        array.close()
        message = f"{source} is an archive of arrays: give a .npy file with one array"
        raise VectorError(message)
    return array


def _check_no_objects(file: Path) -> None:
    """Refuse an array of Python objects, which only code in the file could restore."""
    with file.open("rb") as opened, suppress(ValueError):  # if it is no .npy file, np.load reports that
        version = np.lib.format.read_magic(opened)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if header(opened)[2].hasobject:
            message = f"{file} holds Python objects (dtype object): save it as an array of integers, strings or floats"
            raise VectorError(message)


def _content_keys(session: Session, split: str) -> dict[str, dict[str, str]]:
    """The content keys of a split's items by source id, for each tower."""
    keys: dict[str, dict[str, str]] = {"image": {}, "text": {}}
    for row in session.rows("import/items", split_id=split_id(session, split)):
        if keys[row["tower"]].setdefault(row["source_id"], row["content"]) != row["content"]:
            message = f"two items of {split} have the source id {row['source_id']}: their vectors are ambiguous"
            raise VectorError(message)
    return keys


def _check_name(session: Session, name: str) -> None:
    check_name("model", name)
    row = session.row("model/find", name=name)
    owner = job_files().get(name) or (row and row["origin"] != "imported" and f"a model with base {row['base']}")
    if owner:
        message = f"{name!r} is taken by {owner}: import under another name"
        raise ModelError(message)


def _contents(ids: list[str], keys: dict[str, str], unknown: str) -> list[str]:
    for name in ids:
        if name not in keys:
            message = f"{unknown} with the source id {name}: ids are those of the dataset's own files"
            raise VectorError(message)
    return [keys[name] for name in ids]


def _tower(name: str, tower: TowerName, dim: int) -> Tower:
    """The tower of imported vectors; its fingerprint is computed from the name, as the encoder is unknown."""
    fingerprint = hashlib.sha256(f"imported/{name}/{tower}/{dim}".encode()).hexdigest()
    return Tower(tower=tower, fingerprint=fingerprint, precision="imported", dim=dim)


def _write_shards(
    store: Store, tower: Tower, model: Model, rows: NDArray[Any], contents: list[str]
) -> tuple[list[Shard], dict[str, int]]:
    """Write the shards of one tower, and count the rows that were not of unit length, and the zero vectors."""
    info = ShardInfo(
        kind="vectors",
        tower=tower.tower,
        fingerprint=tower.fingerprint,
        model=model.name,
        family=model.family,
        precision=tower.precision,
        normalised=True,
        cut=0,
        software=shards.software(clipstore=version("clipstore")),
    )
    counts = {"not_unit": 0, "zero": 0}
    written, storage = [], shard_storage(store)
    size = _ROWS_PER_OBJECT if isinstance(storage, ObjectStorage) else _ROWS_PER_SHARD
    for start in range(0, len(rows), size):
        part = np.asarray(rows[start : start + size])
        with np.errstate(over="ignore"):  # an infinite norm is not 1 either
            norms = np.linalg.norm(part.astype(np.float64), axis=1)
        counts["zero"] += int((~part.any(axis=1)).sum())
        counts["not_unit"] += int((np.abs(norms - 1) > _UNIT_TOLERANCE).sum())
        values = normalize(part, "float16" if rows.dtype == np.float16 else "float32")
        keys = contents[start : start + size]
        name = hashlib.sha256("\n".join(keys).encode() + values.tobytes()).hexdigest()[:16]
        path = storage.path(f"shards/{tower.fingerprint}/{tower.tower}-{name}.h5")
        written.append(shards.write_shard(path, info, values, keys, {}, publish=storage.publish))
    return written, counts


def _register_new(session: Session, written: list[Shard]) -> bool:
    """Register the shards that the catalog lacks, in place of their items' former vectors; whether there were any."""
    registered = {
        row["file"]
        for fingerprint in {shard.info.fingerprint for shard in written}
        for row in session.rows("import/current_shards", fingerprint=fingerprint)
    }
    new = [shard for shard in written if shard_file(shard.path) not in registered]
    if new:
        keys = [(shard.info.fingerprint, content) for shard in new for content in shard.contents]
        session.stage(replaced=pa.table({"fingerprint": [key[0] for key in keys], "content": [key[1] for key in keys]}))
        session.run("import/delete_replaced")
        session.run("import/delete_shards", files=[shard_file(shard.path) for shard in new])
        register(session, new)
    return bool(new)
