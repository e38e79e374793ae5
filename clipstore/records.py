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
