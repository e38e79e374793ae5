"""A CSV file of one's own: image_path,caption[,image_id,caption_id,split], one row a caption."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from clipstore.datasets import tables
from clipstore.datasets.files import read_csv
from clipstore.errors import DatasetError
from clipstore.records import Annotations


class _Row(NamedTuple):
    image: str
    caption: str
    image_id: str
    caption_id: str
    split: str


def read(file: Path) -> Annotations:
    """The images, captions and splits of a CSV file; paths are relative to its folder.

    Rows with the same image_path are captions of one image. An image without an image_id goes by its path,
    a caption without a caption_id by "<image's id>#<n>", a row without a split belongs to `all`.
    Raises DatasetError when the file is missing, malformed, or contradicts itself.
    """
    rows = [_row(file, row) for row in read_csv(file, ("image_path", "caption"), ("image_id", "caption_id", "split"))]
    ids = _image_ids(file, rows)
    names = [row.image for row in rows]
    categories, image_categories = tables.no_categories()
    return Annotations(
        images=tables.images(file, file.parent, list(ids.values()), list(ids)),
        captions=tables.captions(
            file,
            names,
            [row.caption_id or f"{ids[row.image]}#{at}" for row, at in zip(rows, tables.ordinals(names), strict=True)],
            [row.caption for row in rows],
        ),
        splits=tables.splits(_members(rows)),
        categories=categories,
        image_categories=image_categories,
    )


def _row(file: Path, values: list[str]) -> _Row:
    path, caption, image_id, caption_id, split = values
    # Captions stay as they are; around ids and split names, white space is only ever a slip.
    return _Row(tables.file_name(file, path), caption, image_id.strip(), caption_id.strip(), split.strip() or "all")


def _image_ids(file: Path, rows: list[_Row]) -> dict[str, str]:
    """Each image's id, in file order; a row that leaves image_id empty says nothing against another's."""
    told: dict[str, str] = {}
    owners: dict[str, str] = {}
    for row in filter(lambda row: row.image_id, rows):
        known = told.setdefault(row.image, row.image_id)
        if known != row.image_id:
            raise DatasetError(f"{file}: {row.image!r} has the image_ids {known!r} and {row.image_id!r}; keep one")
        owner = owners.setdefault(row.image_id, row.image)
        if owner != row.image:
            raise DatasetError(
                f"{file}: the image_id {row.image_id!r} is that of {owner!r} and {row.image!r}; change one"
            )
    return {row.image: told.get(row.image, row.image) for row in rows}


def _members(rows: list[_Row]) -> dict[str, list[str]]:
    members: dict[str, dict[str, None]] = {}
    for row in rows:
        members.setdefault(row.split, {})[row.image] = None
    return {split: list(names) for split, names in members.items()}
