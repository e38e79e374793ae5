"""Vectors in and out: made elsewhere and taken in as a model, or written out in clip-retrieval's layout."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipstore import shards
from clipstore.catalog import Session
from clipstore.errors import ModelError, VectorError, check_name
from clipstore.files import check_regular
from clipstore.jobs import job_files
from clipstore.records import Model, Row, Tower, TowerName
from clipstore.shards import Shard, ShardInfo, normalize
from clipstore.store.evaluations import delete_model_evaluations
from clipstore.store.layout import Store, split_id
from clipstore.store.locks import shard_write_lock
from clipstore.store.models import IMPORTED, current_towers, find_model, record_model, record_towers
from clipstore.store.registry import register
from clipstore.store.vectors import find_gallery
from clipstore.waiting import wait_without_limit

Source = Path | NDArray[Any]  # a .npy file, or an array

_ROWS = 32768  # rows of one shard, and of one step of an export
_UNIT = 1e-3  # a length farther from 1 than this counts as not unit


def import_vectors(
    store: Store, name: str, split: str, *, images: tuple[Source, Source], captions: tuple[Source, Source]
) -> list[Row]:
    """Take in image and caption vectors, each rows (N, D) and their source ids (N,), as the model `name`.

    The items must be of `split`; not all of its items need be there. Vectors are normalised. An item imported before
    under this name gets its new vector, and the model's evaluations, if anything changed, are removed.

    Returns, for each tower, how many rows there were, how many were not of unit length, and how many were zero.

    Raises:
        VectorError: a file cannot be read, shapes do not fit, a value is not finite, an id is unknown or twice there.
        ModelError: the name is a job's or another model's.
    """
    sides: dict[TowerName, tuple[NDArray[Any], list[str]]] = {
        "image": _read(*images, "images"),
        "text": _read(*captions, "captions"),
    }
    dims = {tower: rows.shape[1] for tower, (rows, _) in sides.items()}
    if dims["image"] != dims["text"]:
        message = (
            f"{_label(images[0], 'images')} has width {dims['image']} and {_label(captions[0], 'captions')} has "
            f"{dims['text']}: both must be of one model"
        )
        raise VectorError(message)
    with store.catalog.read() as session:
        keys = _keys(session, split)
        _check_name(session, name)
    store.catalog.check_writable()
    model = Model(name=name, family=IMPORTED, base="vectors made elsewhere")
    towers = tuple(_tower(name, tower, dims[tower]) for tower in sides)
    contents = {tower: _contents(ids, keys[tower], f"{split} has no {tower}") for tower, (_, ids) in sides.items()}
    with shard_write_lock(store):
        made: list[Shard] = []
        told: list[Row] = []
        for tower, (rows, _) in zip(towers, sides.values(), strict=True):
            written, counts = _write(store, tower, model, rows, contents[tower.tower])
            made += written
            told.append({"model": name, "tower": tower.tower, "rows": len(rows), **counts})
        _enter(store, model, towers, made)
    return told


def _enter(store: Store, model: Model, towers: tuple[Tower, ...], made: list[Shard]) -> None:
    """Register imported shards as a model's; its evaluations are removed where anything changed."""
    with wait_without_limit(), store.catalog.write() as session:
        model_id = record_model(session, model, origin="imported")
        renewed = current_towers(session, model_id) != towers
        record_towers(session, model_id, towers, key="")
        if _replace(session, store, made) or renewed:
            delete_model_evaluations(session, model_id)


def export_vectors(store: Store, model_name: str, split: str, folder: Path, *, partial: bool = False) -> Row:
    """Write a split's vectors as clip-retrieval lays them out, one row a caption.

    FOLDER/img_emb/img_emb_0.npy and FOLDER/text_emb/text_emb_0.npy hold row i of the image and of the caption of
    row i of FOLDER/metadata/metadata_0.parquet (image_path, caption, image_source_id, caption_source_id). Ids are those
    of the data set, as `import_vectors` takes them; the catalog's mean nothing outside its store.

    Returns how many rows there are, how many images and captions were left out, and warnings.

    Raises:
        VectorError: the folder is there already, or items have no vectors yet (and not `partial`).
    """
    if folder.exists():
        message = f"{folder} is there already: name a new folder"
        raise VectorError(message)
    model = find_model(store, model_name)
    with store.catalog.read() as session:
        found = find_gallery(store, session, model, split, partial=partial)
        captions = found.texts.table["caption_id"]
        session.stage(exported=pa.table({"caption_id": captions, "place": np.arange(len(captions))}))
        metadata = session.table("export/metadata")
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for kind in ("img_emb", "text_emb", "metadata"):
            (temporary / kind).mkdir(parents=True)
        _save(temporary / "img_emb" / "img_emb_0.npy", found.images.at(found.pairs[:, 0]).vectors)
        _save(temporary / "text_emb" / "text_emb_0.npy", found.texts.vectors)
        pq.write_table(metadata, temporary / "metadata" / "metadata_0.parquet")
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {"folder": str(folder), "rows": metadata.num_rows, **found.missing, "warnings": list(found.images.warnings)}


def _read(vectors: Source, ids: Source, side: str) -> tuple[NDArray[Any], list[str]]:
    """The rows of one side, of a file mapped and not read, and their source ids."""
    rows, names = _load(vectors), _load(ids)
    vectors_label, ids_label = _label(vectors, side), _label(ids, f"{side}' ids")
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating):
        message = f"{vectors_label} holds {rows.dtype} of shape {rows.shape}: vectors are floats of shape (N, D)"
        raise VectorError(message)
    if names.ndim != 1 or names.dtype.kind not in "iuU" or len(names) != len(rows):
        message = (
            f"{ids_label} holds {names.dtype} of shape {names.shape}: "
            f"ids are {len(rows)} integers or strings, one a row"
        )
        raise VectorError(message)
    listed = [str(name) for name in names.tolist()]
    twice = next((name for name, times in Counter(listed).items() if times > 1), None)
    if twice is not None:
        message = f"{ids_label} has the id {twice} more than once: give each item one vector"
        raise VectorError(message)
    _check_finite(vectors_label, rows, listed)
    return rows, listed


def _label(source: Source, name: str) -> str:
    """How messages name a source: by its path, an array by its name."""
    return str(source) if isinstance(source, Path) else f"the array of {name}"


def _check_finite(label: str, rows: NDArray[Any], ids: list[str]) -> None:
    for start in range(0, len(rows), _ROWS):
        finite = np.isfinite(rows[start : start + _ROWS]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            message = f"{label}: vector {row}, of the id {ids[row]}, holds NaN or infinity: nothing was imported"
            raise VectorError(message)


def _load(file: Source) -> NDArray[Any]:
    if isinstance(file, np.ndarray):
        return file
    try:
        check_regular(file)
        _check_no_objects(file)
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        message = f"cannot read {file} as a .npy file: {error}"
        raise VectorError(message) from error
    if not isinstance(loaded, np.ndarray):
        loaded.close()
        message = f"{file} is an archive of arrays: give a .npy file with one array"
        raise VectorError(message)
    return loaded


def _check_no_objects(file: Path) -> None:
    """Refuse an array of Python objects, which only code in the file could restore."""
    with file.open("rb") as opened, suppress(ValueError):  # no .npy file: np.load says what it is
        version = np.lib.format.read_magic(opened)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if header(opened)[2].hasobject:
            message = f"{file} holds Python objects (dtype object): save it as an array of integers, strings or floats"
            raise VectorError(message)


def _keys(session: Session, split: str) -> dict[str, dict[str, str]]:
    """Content keys of a split's items by source id, for each tower."""
    keys: dict[str, dict[str, str]] = {"image": {}, "text": {}}
    for row in session.rows("import/items", split_id=split_id(session, split)):
        if keys[row["tower"]].setdefault(row["source_id"], row["content"]) != row["content"]:
            message = f"the source id {row['source_id']} stands at two items of {split}: vectors cannot be told apart"
            raise VectorError(message)
    return keys


def _check_name(session: Session, name: str) -> None:
    check_name("model", name)
    row = session.row("model/find", name=name)
    taken = job_files().get(name) or (row and row["origin"] != "imported" and f"a model with base {row['base']}")
    if taken:
        message = f"{name!r} is taken by {taken}: import under another name"
        raise ModelError(message)


def _contents(ids: list[str], keys: dict[str, str], unknown: str) -> list[str]:
    for name in ids:
        if name not in keys:
            message = f"{unknown} with the source id {name}: ids are those of the data set's own files"
            raise VectorError(message)
    return [keys[name] for name in ids]


def _tower(name: str, tower: TowerName, dim: int) -> Tower:
    """Nobody knows what made the vectors: the fingerprint is of the name that they were given."""
    fingerprint = hashlib.sha256(f"imported/{name}/{tower}/{dim}".encode()).hexdigest()
    return Tower(tower=tower, fingerprint=fingerprint, precision="imported", dim=dim)


def _write(
    store: Store, tower: Tower, model: Model, rows: NDArray[Any], contents: list[str]
) -> tuple[list[Shard], dict[str, int]]:
    """Write one tower's shards, and count the rows that were not of unit length."""
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
    made = []
    for start in range(0, len(rows), _ROWS):
        part = np.asarray(rows[start : start + _ROWS])
        with np.errstate(over="ignore"):  # an infinite length is not 1 either
            lengths = np.linalg.norm(part.astype(np.float64), axis=1)
        counts["zero"] += int((~part.any(axis=1)).sum())
        counts["not_unit"] += int((np.abs(lengths - 1) > _UNIT).sum())
        values = normalize(part, "float16" if rows.dtype == np.float16 else "float32")
        keys = contents[start : start + _ROWS]
        name = hashlib.sha256("\n".join(keys).encode() + values.tobytes()).hexdigest()[:16]
        path = store.shards / tower.fingerprint / f"{tower.tower}-{name}.h5"
        made.append(shards.write_shard(path, info, values, keys, {}))
    return made, counts


def _replace(session: Session, store: Store, made: list[Shard]) -> bool:
    """Register imported shards, their items' former vectors forgotten; whether there was anything new in them."""
    known = {
        row["file"]
        for fingerprint in {shard.info.fingerprint for shard in made}
        for row in session.rows("import/whole_shards", fingerprint=fingerprint)
    }
    fresh = [shard for shard in made if str(shard.path.relative_to(store.root)) not in known]
    if fresh:
        keys = [(shard.info.fingerprint, content) for shard in fresh for content in shard.contents]
        session.stage(replaced=pa.table({"fingerprint": [key[0] for key in keys], "content": [key[1] for key in keys]}))
        session.run("import/delete_replaced")
        register(session, store, fresh)
    return bool(fresh)


def _save(file: Path, rows: Any) -> None:
    """Write rows that slice like an array as .npy, a step at a time."""
    out = np.lib.format.open_memmap(file, mode="w+", dtype=rows.dtype, shape=rows.shape)
    for start in range(0, rows.shape[0], _ROWS):
        out[start : start + _ROWS] = rows[start : start + _ROWS]
    out.flush()
