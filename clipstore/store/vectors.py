"""Where the vectors of a split's items lie, and reading them block by block."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore import choices, shards
from clipstore.catalog import Session
from clipstore.errors import JobError, ModelError, NotFoundError, VectorError
from clipstore.records import Model, Row, Tower
from clipstore.store.layout import Store, split_id
from clipstore.store.models import IMPORTED, current_towers, find_model, has_changed
from clipstore.store.probes import warn_unchecked

if TYPE_CHECKING:
    from clipstore.ranking import BadRowError

Prepared = TypeVar("Prepared")

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as str(int) writes it


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Vectors in shards that slice like an array (N, D): item i is row `rows[i]` of the shard `paths[which[i]]`."""

    paths: list[Path]
    which: NDArray[np.int64]
    rows: NDArray[np.int64]
    dim: int
    dtypes: list[str]  # of the shards that hold the rows, each once
    stamps: list[shards.FileStamp]  # of the shards' files, when this was made
    held: NDArray[Any] | None = None  # the rows, where they were read already

    @property
    def dtype(self) -> np.dtype[Any]:
        """What a slice is of: float32 unless every row is stored as float16."""
        return np.result_type(*self.dtypes) if self.dtypes else np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self.rows), self.dim

    def __getitem__(self, part: slice) -> NDArray[Any]:
        which, rows = self.which[part], self.rows[part]
        if self.held is not None:
            return self.held[part]
        if not len(rows):
            return np.empty((0, self.dim), dtype=self.dtype)
        gathered = shards.gather(self.paths, which, rows).astype(self.dtype, copy=False)
        for one in np.unique(which).tolist():
            shards.check_unchanged(self.paths[one], self.stamps[one])
        return gathered

    def at(self, places: NDArray[np.int64]) -> StoredRows:
        """The same with the rows at these places, in this order."""
        held = None if self.held is None else self.held[places]
        return replace(self, which=self.which[places], rows=self.rows[places], held=held)

    def read(self) -> StoredRows:
        """The same with its rows in memory."""
        return self if self.held is not None else replace(self, held=self[:])


@dataclass(frozen=True, kw_only=True)
class EmbeddedItems:
    """The items of a split for one tower.

    Attributes:
        table: the items that have a vector: image_id or caption_id first, and image_id for captions.
        vectors: their vectors, in the table's order.
        left_out: items that can have none: the photo is missing, or the item failed.
        pending: items that merely were not embedded yet.
        warnings: what is doubtful about the vectors of the split, a line each.
    """

    tower: Tower
    table: pa.Table
    vectors: StoredRows
    left_out: pa.Table
    pending: pa.Table
    warnings: tuple[str, ...] = ()

    def select(self, mask: NDArray[np.bool_]) -> EmbeddedItems:
        """The items where `mask` (N,) is true."""
        return self.at(np.flatnonzero(mask))

    def at(self, places: NDArray[np.int64]) -> EmbeddedItems:
        """The same with the items at these places of the table, in this order."""
        return replace(self, table=self.table.take(pa.array(places)), vectors=self.vectors.at(places))


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The images of a split that have a vector, and those of their captions that have one.

    Attributes:
        pairs: (P, 2), row of an image and row of a caption of it, in the captions' order.
        images_in_split: how many images the split has.
        missing: how many images and captions of the split are not there, by the reason why.
    """

    images: EmbeddedItems
    texts: EmbeddedItems
    pairs: NDArray[np.int64]
    images_in_split: int
    missing: Row


def find_gallery(
    store: Store, session: Session, model: Model, split: str, *, partial: bool | None, first: int | None = None
) -> Gallery:
    """What of a split can be ranked or exported for a model; of each image the `first` captions, None: all.

    Raises:
        VectorError: items were not embedded yet (and not `partial`; None: nobody can ask for it), or nothing is left.
    """
    images, texts = embedded_items(store, session, model, split, first)
    pending = (images.pending.num_rows, texts.pending.num_rows)
    if any(pending) and not partial:
        message = (
            f"{pending[0]} images and {pending[1]} captions of {split} have no vectors of {model.name} yet: "
            f"{advice(model, split)}" + ("" if partial is None else ", or take what is there with --partial")
        )
        raise VectorError(message)
    row = pc.index_in(texts.table["image_id"], images.table["image_id"])
    lost = texts.table.filter(row.is_null())
    without_photo = pc.sum(pc.is_in(lost["image_id"], images.left_out["image_id"])).as_py() or 0
    missing = {
        "left_out_images": images.left_out.num_rows,
        "left_out_captions": texts.left_out.num_rows + without_photo,
        "pending_images": pending[0],
        "pending_captions": pending[1] + lost.num_rows - without_photo,
    }
    texts = texts.select(row.is_valid().to_numpy())
    if not texts.table.num_rows:
        why = ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in missing.items() if count)
        message = (
            f"no image of {split} and a caption of its own have vectors of {model.name} "
            f"({why or 'the split is empty'}): "
            + (advice(model, split) if any(pending) else "'clipstore query item_failures' tells why")
        )
        raise VectorError(message)
    image_rows = row.drop_null().to_numpy().astype(np.int64)
    pairs = np.stack([image_rows, np.arange(len(image_rows))], axis=1)
    size = images.table.num_rows + images.left_out.num_rows + images.pending.num_rows
    return Gallery(images=images, texts=texts, pairs=pairs, images_in_split=size, missing=missing)


def prepare_models(
    store: Store, session: Session, names: Iterable[str], split: str, prepare: Callable[[Model], Prepared]
) -> tuple[list[tuple[Model, Prepared]], list[Row]]:
    """What `prepare` makes of each model; none named: of all that have vectors of an item of the split.

    Of those, models for which it raises an error are skipped: their "model" and "reason" are returned beside.

    Raises:
        NotFoundError: there is no such split.
        VectorError: none is named, and none has all the vectors.
        And what `prepare` raises for a model that is named.
    """
    target = split_id(session, split)
    if named := list(dict.fromkeys(names)):
        models = {model.name: model for model in [find_model(store, name) for name in named]}
        return [(model, prepare(model)) for model in models.values()], []
    candidates = [row["name"] for row in session.rows("evaluate/models", split_id=target)]
    ready, skipped = [], []
    for name in candidates:
        try:
            model = find_model(store, name)
            ready.append((model, prepare(model)))
        except (VectorError, NotFoundError, ModelError, JobError) as error:
            skipped.append({"model": name, "reason": str(error)})
    if not ready:
        message = f"no model has vectors of {split} yet: run 'clipstore embed --model NAME --split {split}' first"
        if skipped:
            more = len(skipped) - 1
            others = f" (and {more} more model{'s are' if more > 1 else ' is'} incomplete too)" if more else ""
            message = skipped[0]["reason"] + others
        raise VectorError(message)
    return ready, skipped


def embedded_items(
    store: Store, session: Session, model: Model, split: str, first: int | None = None
) -> tuple[EmbeddedItems, EmbeddedItems]:
    """The images and the captions (of each image the `first`, None: all) of a split for a model's current towers.

    Warnings about both are logged, and the same in each.

    Raises:
        NotFoundError: there is no such split.
        VectorError: the model was never embedded, or has changed since; with the command to run.
    """
    target = split_id(session, split)
    row = session.row("model/find", name=model.name)
    towers = current_towers(session, row["model_id"]) if row else ()
    if not row or not towers:
        message = f"{model.name} has no vectors yet: {advice(model, split)}"
        raise VectorError(message)
    if has_changed(session, row, model):
        message = f"{model.name} has changed since it was embedded: {advice(model, split)}"
        raise VectorError(message)
    image, text = towers
    asked: dict[str, Any] = {"model_id": row["model_id"], "split_id": target}
    images = session.table(
        "evaluate/gallery_images", fingerprint=image.fingerprint, backbone=image.backbone, family=model.family, **asked
    )
    captions = session.table("evaluate/gallery_captions", fingerprint=text.fingerprint, first=first, **asked)
    items = _items(store, session, image, images), _items(store, session, text, captions)
    made = [one.tower.fingerprint for one in items if one.table.num_rows]
    warnings = tuple(warn_unchecked(session, model.name, model.family, split, made))
    return replace(items[0], warnings=warnings), replace(items[1], warnings=warnings)


def bad_row_error(items: EmbeddedItems, error: BadRowError) -> VectorError:
    """The error for items of which one has a vector that cannot be ranked; with where it lies, and what to do."""
    where = items.vectors.paths[items.vectors.which[error.row]]
    message = (
        f"the vector of {error.side} {items.table['source_id'][error.row]} holds NaN, infinity or values past 1e18: it "
        f"is row {items.vectors.rows[error.row]} of {where}; remove that shard, and embed or import it again"
    )
    return VectorError(message)


def advice(model: Model, split: str) -> str:
    """What to run for the vectors that are not there."""
    if model.family == IMPORTED:
        return f"import theirs too with 'clipstore import {model.name} --split {split}'"
    return f"run 'clipstore embed --model {model.name} --split {split}'"


def _items(store: Store, session: Session, tower: Tower, table: pa.Table) -> EmbeddedItems:
    found = table["shard_id"].is_valid()
    have, lack = table.filter(found), table.filter(pc.invert(found))
    files = {row["shard_id"]: row for row in session.rows("evaluate/shards", fingerprint=tower.fingerprint)}
    ids = np.array(sorted(files), dtype=np.int64)
    which = np.searchsorted(ids, have["shard_id"].to_numpy())
    paths = [store.root / files[one]["file"] for one in ids.tolist()]
    vectors = StoredRows(
        paths=paths,
        stamps=[shards.file_stamp(path) for path in paths],
        which=which,
        rows=have["row"].to_numpy().astype(np.int64),
        dim=tower.dim,
        dtypes=list(dict.fromkeys(files[one]["dtype"] for one in ids[np.unique(which)].tolist())),
    )
    return EmbeddedItems(
        tower=tower,
        table=have,
        vectors=vectors,
        left_out=lack.filter(lack["left_out"]),
        pending=lack.filter(pc.invert(lack["left_out"])),
    )


def read_vectors(
    store: Store, model: str, split: str, what: str, *, ids: str = "source"
) -> tuple[NDArray[np.int64 | np.str_], NDArray[np.floating[Any]]]:
    """The ids (N,) and the vectors (N, D) of the "images" or the "captions" of a split that have one.

    `ids` is "source": the data set's own ids, which `import_vectors` takes (see `source_ids`); or "catalog": the
    catalog's image_id or caption_id, int64, for joins in SQL.

    Raises:
        OptionError: `what` or `ids` is something else; with the nearest.
        NotFoundError: no such model or split.
        VectorError: the model was never embedded, or two items have one source id.
    """
    choices.check_value("kind of items", what, choices.ITEM_KINDS)
    choices.check_value("kind of ids", ids, choices.ID_KINDS)
    found = find_model(store, model)
    with store.catalog.read() as session:
        images, captions = embedded_items(store, session, found, split)
    items, key = (images, "image_id") if what == "images" else (captions, "caption_id")
    if ids == "catalog":
        return items.table[key].to_numpy(), items.vectors[:]
    return source_ids(items.table["source_id"].to_pylist(), f"{what} of {split}"), items.vectors[:]


def source_ids(ids: list[str], whose: str) -> NDArray[np.int64 | np.str_]:
    """Source ids (N,) as `clipstore import` takes them: int64 where each is written as an int64 is, else strings.

    "007" stays a string: as a number it would come back as "7".

    Raises:
        VectorError: an id occurs twice, so that it does not say which item is meant.
    """
    if len(set(ids)) < len(ids):
        twice = next(name for name, times in Counter(ids).items() if times > 1)
        message = f"two {whose} have the source id {twice!r}: ask for ids='catalog', which differ"
        raise VectorError(message)
    return np.array(ids, dtype=np.int64 if all(map(_is_int64, ids)) else np.str_)


def _is_int64(text: str) -> bool:
    return bool(_INTEGER.fullmatch(text)) and -(2**63) <= int(text) < 2**63
