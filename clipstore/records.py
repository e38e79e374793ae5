"""The plain records that the rooms hand to one another. Data only: no files, no catalog, no models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """What one annotation source says of its images, as pyarrow tables; `image` is always a `file_name`.

    images            source_id string, file_name string, path string, width int32, height int32 (null: not told)
    captions          image string, source_id string, text string, position int32 (from 0, within the image)
    splits            split string (without its group), image string, position int32 (from 0, within the split)
    categories        source_id string, name string, supercategory string
    image_categories  image string, category string (a category's source_id), instances int32

    `file_name` is relative to the source's root, with forward slashes, and unique; `path` is absolute.
    """

    images: pa.Table
    captions: pa.Table
    splits: pa.Table
    categories: pa.Table
    image_categories: pa.Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model as a user names it.

    `base` is a hub id, a local folder or "bundled:demo"; `adapter` a PEFT folder; `prompt` holds "{}" where the
    caption goes; `clean` asks for the caption cleaning of `clean_caption` in sql/schema/macros.sql.
    """

    name: str
    family: str
    base: str
    adapter: str | None = None
    prompt: str | None = None
    clean: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """One tower of a model as its files describe it.

    `fingerprint` decides the tower's vectors, `dim` wide; `backbone` the features before the head, `features_dim`
    wide (kept for images alone).
    """

    tower: str
    fingerprint: str
    precision: str
    dim: int
    backbone: str | None = None
    features_dim: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The items of one shard to come: plain data that any process can work on.

    `source` says what `sources` are: "photos" (paths), "texts" (what goes into the tokenizer), or "features" (the
    shard, below the store, that holds the item's backbone features at the row in `rows`).
    """

    tower: Tower
    source: str
    contents: list[str]
    sources: list[str]
    rows: list[int]
