"""The stored vectors of a split's items: their locations, and reading them block by block."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore import choices
from clipstore.catalog import Session
from clipstore.errors import VectorError
from clipstore.hints import embed_command, import_command
from clipstore.records import IMPORTED, Model, RegisteredShard, Tower
from clipstore.shards import FileStamp, check_file_unchanged, file_stamp, gather
from clipstore.store.layout import Store, split_id
from clipstore.store.models import find_model
from clipstore.store.probes import unchecked_warnings
from clipstore.store.registry import registered_shard
from clipstore.store.storage import shard_storage
from clipstore.store.towers import has_changed, recorded_towers

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as str(int) writes it


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Vectors in shards that slice like an array (N, D).

    Attributes:
        shards, stamps: the shards, and the stamps of their files when this was created.
        shard, rows: (N,), the shard of each vector, as an index of `shards`, and its row in the shard.
        dtypes: the distinct types of the shards that contain rows.
        loaded: (N, D), the vectors, if they are in memory.
    """

    shards: list[RegisteredShard]
    stamps: list[FileStamp]
    shard: NDArray[np.int64]
    rows: NDArray[np.int64]
    dim: int
    dtypes: list[str]
    loaded: NDArray[Any] | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a slice: float32 unless every row is stored as float16."""
        return np.result_type(*self.dtypes) if self.dtypes else np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.rows), self.dim

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        if self.loaded is not None:
            return self.loaded[rows]
        shard, row = self.shard[rows], self.rows[rows]
        if not len(row):
            return np.empty((0, self.dim), dtype=self.dtype)
        gathered = gather(self.shards, shard, row).astype(self.dtype, copy=False)
        for number in np.unique(shard).tolist():
            check_file_unchanged(self.shards[number], self.stamps[number])
        return gathered

    def take(self, indices: NDArray[np.int64]) -> StoredRows:
        """The rows at some indices (M,), in that order."""
        loaded = None if self.loaded is None else self.loaded[indices]
        return replace(self, shard=self.shard[indices], rows=self.rows[indices], loaded=loaded)

    def absolute(self) -> StoredRows:
        """The same rows for other processes, with absolute paths of the shards."""
        return replace(self, shards=[replace(shard, path=shard.path.absolute()) for shard in self.shards])

    def with_stamps(self) -> StoredRows:
        """The same rows with the present stamps of the files, which can differ between nodes with one file system.

        Each shard that is read is compared with its checksum, as ever.
        """
        return replace(self, stamps=[file_stamp(shard.path) for shard in self.shards])

    def missing_shard(self, rows: range) -> Path | None:
        """A shard of some rows that was no file when the stamps were taken; None: there is none, or it is not read."""
        used = [] if self.loaded is not None else np.unique(self.shard[rows.start : rows.stop]).tolist()
        paths = (self.shards[number].path for number in used if self.stamps[number].inode is None)
        return next(paths, None)

    def read(self) -> StoredRows:
        """The same rows in memory."""
        return self if self.loaded is not None else replace(self, loaded=self[:])


@dataclass(frozen=True, kw_only=True)
class EmbeddedItems:
    """The items of a split for one tower.

    Attributes:
        table: the items that have a vector: image_id or caption_id first, and for captions also image_id.
        vectors: their vectors, in the order of the table.
        left_out: items that have no vector and will not get one: the image file is missing, or the item failed.
        pending: items that are not embedded yet.
        warnings: lines about vectors of the split that may be wrong.
    """

    tower: Tower
    table: pa.Table
    vectors: StoredRows
    left_out: pa.Table
    pending: pa.Table
    warnings: tuple[str, ...] = ()

    def select(self, mask: NDArray[np.bool_]) -> EmbeddedItems:
        """The items where `mask` (N,) is true."""
        return self.take(np.flatnonzero(mask))

    def take(self, indices: NDArray[np.int64]) -> EmbeddedItems:
        """The items at some indices (M,) of the table, in that order."""
        return replace(self, table=self.table.take(pa.array(indices)), vectors=self.vectors.take(indices))

    def with_vectors(self, values: NDArray[np.float32]) -> EmbeddedItems:
        """The items with other vectors (N, D), which are in memory."""
        return replace(self, vectors=replace(self.vectors, loaded=values, dtypes=["float32"]))


def embedded_items(
    store: Store, session: Session, model: Model, split: str, first_captions: int | None = None
) -> tuple[EmbeddedItems, EmbeddedItems]:
    """Returns the images and the captions of a split for a model's current towers.

    `first_captions` is the number of captions of each image (None: all). Both have the same warnings, which are
    also logged.

    Raises:
        NotFoundError: there is no such split.
        VectorError: the model was never embedded, or has changed since. The message names the command.
    """
    target_split_id = split_id(session, split)
    row = session.row("model/find", name=model.name)
    towers = recorded_towers(session, row["model_id"]) if row else ()
    if not row or not towers:
        message = f"{model.name} has no vectors yet: {missing_vectors_hint(model, split)}"
        raise VectorError(message)
    if has_changed(session, row, model):
        message = f"{model.name} has changed since it was embedded: {missing_vectors_hint(model, split)}"
        raise VectorError(message)
    image, text = towers
    keys: dict[str, Any] = {"model_id": row["model_id"], "split_id": target_split_id}
    images = session.table(
        "evaluate/gallery_images", fingerprint=image.fingerprint, backbone=image.backbone, family=model.family, **keys
    )
    captions = session.table("evaluate/gallery_captions", fingerprint=text.fingerprint, first=first_captions, **keys)
    sides = _items(store, session, image, images), _items(store, session, text, captions)
    fingerprints = [items.tower.fingerprint for items in sides if items.table.num_rows]
    warnings = tuple(unchecked_warnings(session, model.name, model.family, split, fingerprints))
    return replace(sides[0], warnings=warnings), replace(sides[1], warnings=warnings)


def _items(store: Store, session: Session, tower: Tower, table: pa.Table) -> EmbeddedItems:
    embedded = table["shard_id"].is_valid()
    present, missing = table.filter(embedded), table.filter(pc.invert(embedded))
    files = {row["shard_id"]: row for row in session.rows("evaluate/shards", fingerprint=tower.fingerprint)}
    ids = np.array(sorted(files), dtype=np.int64)
    shard = np.searchsorted(ids, present["shard_id"].to_numpy())
    storage = shard_storage(store)
    registered = [registered_shard(storage, files[number]) for number in ids.tolist()]
    vectors = StoredRows(
        shards=registered,
        stamps=[file_stamp(item.path) for item in registered],
        shard=shard,
        rows=present["row"].to_numpy().astype(np.int64),
        dim=tower.dim,
        dtypes=list(dict.fromkeys(files[number]["dtype"] for number in ids[np.unique(shard)].tolist())),
    )
    return EmbeddedItems(
        tower=tower,
        table=present,
        vectors=vectors,
        left_out=missing.filter(missing["left_out"]),
        pending=missing.filter(pc.invert(missing["left_out"])),
    )


def missing_vectors_hint(model: Model, split: str) -> str:
    """The command that creates the missing vectors of a model."""
    if model.family == IMPORTED:
        return f"import them with '{import_command(model.name, split)}'"
    return f"run '{embed_command(model.name, split)}'"


def bad_row_error(items: EmbeddedItems, side: str, row: int) -> VectorError:
    """The error for the item in a row of `items` whose vector cannot be ranked, with its shard."""
    shard = items.vectors.shards[items.vectors.shard[row]]
    place = shard.url or shard.path
    message = (
        f"the vector of {side} {items.table['source_id'][row]} contains NaN, infinity or values above "
        f"1e18 (row {items.vectors.rows[row]} of {place}): remove that shard, and embed or import it again"
    )
    return VectorError(message)


def read_vectors(
    store: Store, model: str, split: str, kind: str, *, ids: str = "source"
) -> tuple[NDArray[np.int64 | np.str_], NDArray[np.floating[Any]]]:
    """The ids (N,) and the vectors (N, D) of the "images" or the "captions" of a split that have a vector.

    `ids` is "source" for the ids of the dataset, which `import_vectors` takes (see `source_ids`), or "catalog" for the
    image_id or caption_id of the catalog, int64, for joins in SQL.

    Raises:
        OptionError: `kind` or `ids` has another value. The message suggests the nearest one.
        NotFoundError: there is no such model or split.
        VectorError: the model was never embedded, or two items have the same source id.
    """
    choices.check_value("kind of items", kind, choices.ITEM_KINDS)
    choices.check_value("kind of ids", ids, choices.ID_KINDS)
    record = find_model(store, model)
    with store.catalog.read() as session:
        images, captions = embedded_items(store, session, record, split)
    items, key = (images, "image_id") if kind == "images" else (captions, "caption_id")
    if ids == "catalog":
        return items.table[key].to_numpy(), items.vectors[:]
    return source_ids(items.table["source_id"].to_pylist(), f"{kind} of {split}"), items.vectors[:]


def source_ids(ids: list[str], description: str) -> NDArray[np.int64 | np.str_]:
    """Source ids (N,) as `clipstore import` takes them: int64 if each is the decimal form of an int64, else strings.

    "007" remains a string: as a number it would become "7". `description` names the items in messages.

    Raises:
        VectorError: an id occurs twice.
    """
    if len(set(ids)) < len(ids):
        duplicate = next(name for name, times in Counter(ids).items() if times > 1)
        message = f"two {description} have the source id {duplicate!r}: use ids='catalog', which are unique"
        raise VectorError(message)
    return np.array(ids, dtype=np.int64 if all(map(_is_int64, ids)) else np.str_)


def _is_int64(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text)) and -(2**63) <= int(text) < 2**63
