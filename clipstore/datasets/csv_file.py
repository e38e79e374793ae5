"""A CSV file: image_path,caption[,class,image_id,caption_id,split], one row per caption.

A file without captions has image_path,class[,image_id,split], one row per image.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from clipstore.datasets import blocks, flickr, tables
from clipstore.datasets.delimited import Delimited, delimited_rows, has_columns, read_delimited
from clipstore.datasets.json_stream import UnusualFileError
from clipstore.errors import DatasetError
from clipstore.records import Annotations
from clipstore.spool import BATCH_ROWS, TableBuilder

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|.*;base64,)")


class _Row(NamedTuple):
    number: int
    image: str
    caption: str | None
    label: str
    image_id: str
    caption_id: str
    split: str


def read(file: Path, images: Path | None = None) -> Annotations:
    """The images, captions and splits of a CSV file; relative paths are below `images`, else below its folder.

    Rows with the same image_path are captions of one image, and state the same class or none. The id of an image
    without an image_id is its path, that of a caption without a caption_id is "<image id>#<n>". An image is in one
    split: the one in its rows, else `all`.
    Raises DatasetError when the file is missing, malformed, or inconsistent.
    """
    folder = file.parent if images is None else images
    if blocks.is_large(file):
        with suppress(
            UnusualFileError, DatasetError, UnicodeDecodeError, OSError
        ):  # the whole file tells what is wrong
            return _read_in_blocks(file, folder)
    if _is_without_captions(file):
        table = _read_labels(file)
        rows = [_labelled_row(file, folder, number, values) for number, values in table.rows]
    else:
        table = _read_table(file)
        rows = [_row(file, folder, number, values) for number, values in table.rows]
    ids = _image_ids(file, rows)
    captions = [(row, row.caption) for row in rows if row.caption is not None]
    names = [row.image for row, _ in captions]
    labels = _stated(file, ((row.number, row.image, row.label) for row in rows), "classes")
    return Annotations(
        images=tables.images(file, list(ids.values()), list(ids), tables.paths_below(folder, list(ids))),
        captions=tables.captions(
            file,
            names,
            [
                row.caption_id or f"{ids[row.image]}#{n}"
                for (row, _), n in zip(captions, tables.ordinals(names), strict=True)
            ],
            [text for _, text in captions],
        ),
        splits=tables.splits(_members(file, rows)),
        **(tables.single_labels(labels) if labels else {}),
        warnings=(*table.warnings, *_without_split(file, rows), *_without_class(file, rows, labels)),
    )


def _read_in_blocks(file: Path, folder: Path) -> Annotations:
    """As `read`, of a large file whose rows of an image follow one another, without classes."""
    with file.open(encoding="utf-8-sig") as stream:
        if flickr.is_results_header(stream.readline(2**16).rstrip("\n")):
            raise UnusualFileError
    source = _Blocks(folder)
    with delimited_rows(file, ("image_path", "caption"), ("class", "image_id", "caption_id", "split")) as table:
        rows, warnings = table
        while block := list(islice(rows, BATCH_ROWS)):
            source.add([_row(file, folder, number, values) for number, values in block])
    return source.finish(warnings)


class _Blocks:
    """The tables of a CSV file, which grow block by block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._images, self._captions, self._splits = map(TableBuilder, (tables.IMAGES, tables.CAPTIONS, tables.SPLITS))
        self._hashes: dict[str, list[blocks.Ints]] = {"names": [], "ids": [], "captions": []}
        self._members: Counter[str] = Counter()  # images of each split
        self._image: _Row | None = None  # the first row of the current image
        self._count = 0  # its captions

    def add(self, rows: list[_Row]) -> None:
        """Add rows."""
        images, captions, members = [], [], []
        for row in rows:
            first = self._image
            if first is None or row.image != first.image:
                if row.label:
                    raise UnusualFileError
                self._image, first, self._count = row, row, 0
                images.append((row.image_id or row.image, row.image))
                members.append((row.split, row.image, self._members[row.split]))
                self._members[row.split] += 1
            elif row.label or row.image_id not in ("", first.image_id) or row.split not in ("", first.split):
                raise UnusualFileError
            source_id = row.caption_id or f"{first.image_id or first.image}#{self._count}"
            captions.append((row.image, source_id, row.caption, self._count))
            self._count += 1
        ids, names = zip(*images, strict=True) if images else ((), ())
        self._images.add(
            ids, names, tables.paths_below(self._folder, list(names)), *[pa.nulls(len(ids), pa.int32())] * 2
        )
        self._captions.add(*zip(*captions, strict=True))
        if members:
            self._splits.add(*zip(*[(split or "all", name, place) for split, name, place in members], strict=True))
        for key, values in (("names", names), ("ids", ids), ("captions", [caption[1] for caption in captions])):
            self._hashes[key].append(blocks.hashes(values))

    def finish(self, warnings: tuple[str, ...]) -> Annotations:
        """The tables. Refuses an id that occurs twice, an image with rows in two places, and images without a split."""
        if len(self._members) > 1 and "" in self._members:
            raise UnusualFileError
        for parts in self._hashes.values():
            blocks.check_distinct(parts)
        return Annotations(
            images=self._images.finish(),
            captions=self._captions.finish(),
            splits=self._splits.finish(),
            warnings=warnings,
        )


def _read_table(file: Path) -> Delimited:
    """The rows with image path, caption, class, image id, caption id and split."""
    if flickr.is_results_csv(file):
        rows, warnings = flickr.read_results_csv(file)
        return Delimited([(number, [name, text, "", "", "", ""]) for number, name, _, text in rows], warnings)
    return read_delimited(file, ("image_path", "caption"), ("class", "image_id", "caption_id", "split"))


def _read_labels(file: Path) -> Delimited:
    """The rows of a table without captions, with image path, class, image id and split."""
    return read_delimited(file, ("image_path", "class"), ("image_id", "split"))


def _is_without_captions(file: Path) -> bool:
    """Whether a table has classes and no captions."""
    has_captions = flickr.is_results_csv(file) or has_columns(file, ("image_path", "caption"))
    return not has_captions and has_columns(file, ("image_path", "class"))


def _row(file: Path, folder: Path, number: int, values: list[str]) -> _Row:
    path, caption, label, image_id, caption_id, split = values
    name = image_name(file, folder, number, path)
    # Captions are kept as they are; white space around classes, ids and split names is removed.
    return _Row(number, name, caption, label.strip(), image_id.strip(), caption_id.strip(), split.strip())


def _labelled_row(file: Path, folder: Path, number: int, values: list[str]) -> _Row:
    path, label, image_id, split = values
    return _row(file, folder, number, [path, "", label, image_id, "", split])._replace(caption=None)


def image_name(file: Path, folder: Path, number: int, path: str) -> str:
    """The file name of an image: its path relative to the folder, or its absolute path outside the folder."""
    if not path.strip():
        raise DatasetError(f"{file}: row {number} has no image path; write it, or remove the row")
    if _URL.match(path):
        raise DatasetError(
            f"{file}: row {number} has the URL {path[:80]!r} as its image path; "
            "download the images and write where they are on disk"
        )
    if not path.startswith("/") or path.startswith("//") or "\0" in path or "\\" in path:
        return tables.file_name(file, path)
    plain = path if ".." in path.split("/") else posixpath.normpath(path)
    return plain.removeprefix(f"{folder.absolute().as_posix().rstrip('/')}/")


def _image_ids(file: Path, rows: list[_Row]) -> dict[str, str]:
    """The id of each image, in file order; an empty image_id does not conflict with that of another row."""
    stated = _stated(file, ((row.number, row.image, row.image_id) for row in rows), "image_ids")
    owners: dict[str, str] = {}
    for image, image_id in stated.items():
        owner = owners.setdefault(image_id, image)
        if owner != image:
            raise DatasetError(f"{file}: the image_id {image_id!r} is that of {owner!r} and {image!r}; change one")
    return {row.image: stated.get(row.image, row.image) for row in rows}


def _members(file: Path, rows: list[_Row]) -> dict[str, list[str]]:
    """The images of each split, in file order. Captions belong to their image, so an image is in one split."""
    stated = _stated(file, ((row.number, row.image, row.split) for row in rows), "splits")
    members: dict[str, dict[str, None]] = {}
    for row in rows:
        members.setdefault(stated.get(row.image, "all"), {})[row.image] = None
    return {split: list(names) for split, names in members.items()}


def _without_split(file: Path, rows: list[_Row]) -> list[str]:
    """The warning that images without a split are in `all` although other images have a split."""
    stated = {row.image for row in rows if row.split}
    others = {row.image: row.number for row in reversed(rows) if row.image not in stated}
    if not stated or not others:
        return []
    image, number = list(others.items())[-1]
    return [
        f"{file}: {len(others):,} images have no split (first: {image!r}, row {number}): they are in the split 'all'"
    ]


def _without_class(file: Path, rows: list[_Row], labels: Mapping[str, str]) -> list[str]:
    """The warning that images have no class although other images have one."""
    others = {row.image: row.number for row in reversed(rows) if row.image not in labels}
    if not labels or not others:
        return []
    image, number = list(others.items())[-1]
    return [f"{file}: {len(others):,} images have no class (first: {image!r}, row {number})"]


def _stated(file: Path, rows: Iterable[tuple[int, str, str]], what: str) -> dict[str, str]:
    """The value that the rows (number, image, value) state for each image; an empty value states nothing.

    Raises DatasetError, naming both rows, for an image of which two rows state different values.
    """
    stated: dict[str, str] = {}
    firsts: dict[str, int] = {}
    for number, image, value in rows:
        if not value:
            continue
        former = stated.setdefault(image, value)
        first = firsts.setdefault(image, number)
        if former != value:
            raise DatasetError(
                f"{file}: the image {image!r} has the {what} {former!r} (row {first}) and {value!r} (row {number}); "
                "keep one of them in all rows of the image"
            )
    return stated
