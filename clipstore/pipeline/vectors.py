"""Where the vectors of a split's items lie, and reading them block by block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore import shards
from clipstore.catalog import Session
from clipstore.pipeline.models import current_towers
from clipstore.pipeline.store import Store
from clipstore.records import Model, Tower


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Vectors in shards that slice like an array (N, D): item i is row `rows[i]` of the shard `paths[which[i]]`."""

    paths: list[Path]
    which: NDArray[np.int64]
    rows: NDArray[np.int64]
    dim: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rows), self.dim

    def __getitem__(self, part: slice) -> NDArray[Any]:
        which, rows = self.which[part], self.rows[part]
        if not len(rows):
            return np.empty((0, self.dim), dtype=self.dtype)
        return shards.gather(self.paths, which, rows).astype(self.dtype, copy=False)


@dataclass(frozen=True, kw_only=True)
class Items:
    """The items of a split for one tower.

    Attributes:
        table: the items that have a vector: image_id or caption_id first, and image_id for captions.
        vectors: their vectors, in the table's order.
        left_out: items that can have none: the photo is missing, or the item failed.
        pending: items that merely were not embedded yet.
    """

    tower: Tower
    table: pa.Table
    vectors: StoredRows
    left_out: pa.Table
    pending: pa.Table

    def only(self, kept: NDArray[np.bool_]) -> Items:
        """The same without the items where `kept` is false."""
        vectors = replace(self.vectors, which=self.vectors.which[kept], rows=self.vectors.rows[kept])
        return replace(self, table=self.table.filter(pa.array(kept)), vectors=vectors)


def items_of(store: Store, session: Session, model: Model, model_id: int, split_id: int) -> tuple[Items, Items] | None:
    """The images and the captions of a split for a model's current towers; None: it was never embedded."""
    towers = current_towers(session, model_id)
    if not towers:
        return None
    image, text = towers
    asked: dict[str, Any] = {"model_id": model_id, "split_id": split_id}
    images = session.table(
        "evaluate/gallery_images", fingerprint=image.fingerprint, backbone=image.backbone, family=model.family, **asked
    )
    captions = session.table("evaluate/gallery_captions", fingerprint=text.fingerprint, **asked)
    return _items(store, session, image, images), _items(store, session, text, captions)


def _items(store: Store, session: Session, tower: Tower, table: pa.Table) -> Items:
    found = table["shard_id"].is_valid()
    have, lack = table.filter(found), table.filter(pc.invert(found))
    files = {row["shard_id"]: row for row in session.rows("evaluate/shards", fingerprint=tower.fingerprint)}
    ids = np.array(sorted(files), dtype=np.int64)
    dtypes = [np.dtype(row["dtype"]) for row in files.values()] or [np.dtype(np.float32)]
    vectors = StoredRows(
        paths=[store.root / files[one]["file"] for one in ids.tolist()],
        which=np.searchsorted(ids, have["shard_id"].to_numpy()),
        rows=have["row"].to_numpy().astype(np.int64),
        dim=tower.dim,
        dtype=np.result_type(*dtypes),
    )
    return Items(
        tower=tower,
        table=have,
        vectors=vectors,
        left_out=lack.filter(lack["left_out"]),
        pending=lack.filter(pc.invert(lack["left_out"])),
    )
