"""COCO: ROOT/annotations/captions_<split>.json, and instances_<split>.json for the categories.

The format is described at https://cocodataset.org/#format-data; the images of a split are in ROOT/<split>/.
"""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from clipstore.datasets import blocks, tables
from clipstore.datasets.files import list_folder, read_json
from clipstore.datasets.image_files import contains_any
from clipstore.datasets.json_stream import UnusualFileError, read_blocks
from clipstore.errors import DatasetError, nearest
from clipstore.records import Annotations
from clipstore.spool import TableBuilder

CAPTIONS_FILE = re.compile(r"captions_(.+)\.json")

# Ids of COCO are integers; other files of its form have strings too, and 1.0 for 1.
Id = int | float | str

_MOST_PIXELS = 2**31 - 1


# Only the required fields: msgspec skips the others, such as the polygons of an instances file, without creating
# objects. gc=False keeps the garbage collector from visiting a million objects without references.
class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    width: Any = None  # optional: a value that is not a number is ignored
    height: Any = None


class _Caption(msgspec.Struct, gc=False):
    id: Id
    image_id: Id
    caption: str


class _Skipped(msgspec.Struct, gc=False):
    """An element of which nothing is needed."""


class _CaptionsFile(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Caption]


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str
    supercategory: Any = None


class _Instance(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id


class _InstancesFile(msgspec.Struct):
    annotations: list[_Instance]
    categories: list[_Category] = []


def splits(root: Path) -> list[str]:
    """The splits that have a file ROOT/annotations/captions_<split>.json, sorted.

    Raises DatasetError when there is none.
    """
    folder = root / "annotations"
    if root.is_dir() and not folder.exists():
        raise DatasetError(f"{root} has no folder annotations; give the folder that holds annotations/")
    names = [match[1] for name in list_folder(folder) if (match := CAPTIONS_FILE.fullmatch(name))]
    if not names:
        raise DatasetError(f"{folder} has no captions_<split>.json; give the folder that holds annotations/")
    return sorted(names)


def read(root: Path, split: str, images: Path | None = None) -> Annotations:
    """One split of a COCO folder, with its categories if instances_<split>.json exists.

    The image files are in `images` (or its folder `<split>`), else in ROOT/<split>/. Every instance counts, including
    crowds, except those of images that the captions file lacks. If the instances file is malformed, the source states
    no categories and has a warning.
    Raises DatasetError when the captions file is missing, malformed, or contradicts itself.
    """
    known = splits(root)
    source = root / "annotations" / f"captions_{split}.json"
    if split not in known:
        raise DatasetError(f"{source} does not exist{nearest(split, known)}; give a split that has captions")
    if blocks.is_large(source):
        with suppress(UnusualFileError, DatasetError, OSError):  # reading the whole file tells what is wrong
            return _read_in_blocks(root, split, source, images)
    content = read_json(source, _CaptionsFile, "a COCO captions file")
    ids = [tables.source_id(image.id) for image in content.images]
    plain = [tables.file_name(source, image.file_name) for image in content.images]
    names = [name if name.startswith(f"{split}/") else f"{split}/{name}" for name in plain]
    paths = tables.paths_below(_image_folder(root, split, plain, images), plain)
    sizes = [_size(image) for image in content.images]
    by_id = dict(zip(ids, names, strict=True))
    categories, image_categories, warnings = _categories(root / "annotations" / f"instances_{split}.json", by_id)
    return Annotations(
        images=tables.images(source, ids, names, paths, sizes),
        captions=_captions(source, content.annotations, by_id),
        splits=tables.splits({split: names}),
        categories=categories,
        image_categories=image_categories,
        warnings=warnings,
    )


def _read_in_blocks(root: Path, split: str, source: Path, images: Path | None) -> Annotations:
    """As `read`, of a large file."""
    index, sizes = _index_images(source)
    captions = blocks.CaptionRows(index.count)
    for key, block in read_blocks(source, {"images": _Skipped, "annotations": _Caption}):
        if key == "images":
            continue
        rows = index.rows([tables.source_id(caption.image_id) for caption in block])
        names = _names_in_split(split, index.names.take(pa.array(rows)))
        ids = [tables.source_id(caption.id) for caption in block]
        captions.add(rows, names, ids, [caption.caption for caption in block])
    names = _names_in_split(split, index.names)
    blocks.check_distinct([blocks.hashes(part.to_pylist()) for _, part in blocks.slices(names)])
    instances = root / "annotations" / f"instances_{split}.json"
    by_id = dict(zip(index.ids.to_pylist(), names.to_pylist(), strict=True)) if instances.exists() else {}
    categories, image_categories, warnings = _categories(instances, by_id)
    folder = _image_folder(root, split, index.names.to_pylist(), images)
    table = TableBuilder(tables.IMAGES)
    for start, part in blocks.slices(index.names):
        end = start + len(part)
        paths = tables.paths_below(folder, part.to_pylist())
        table.add(index.ids[start:end], names[start:end], paths, *sizes.slice(start, len(part)).columns)
    return Annotations(
        images=table.finish(),
        captions=captions.finish(),
        splits=blocks.splits(split, names),
        categories=categories,
        image_categories=image_categories,
        warnings=warnings,
    )


def _index_images(source: Path) -> tuple[blocks.ImageIndex, pa.Table]:
    """The images of a large file by id, and their sizes."""
    index, sizes = blocks.ImageIndex(), []
    for key, block in read_blocks(source, {"images": _Image, "annotations": _Skipped}):
        if key == "annotations":
            continue
        index.add(
            [tables.source_id(image.id) for image in block],
            [tables.file_name(source, image.file_name) for image in block],
        )
        width, height = zip(*map(_size, block), strict=True)
        sizes.append(pa.table({"width": pa.array(width, pa.int32()), "height": pa.array(height, pa.int32())}))
    index.complete()
    return index, pa.concat_tables(sizes)


def _names_in_split(split: str, names: pa.Array) -> pa.Array:
    """File names below the root, of names that have the folder of the split or not."""
    prefix, nothing = pa.scalar(f"{split}/", pa.large_string()), pa.scalar("", pa.large_string())
    below = pc.binary_join_element_wise(prefix, names, nothing)
    return pc.if_else(pc.starts_with(names, f"{split}/"), names, below)


def _image_folder(root: Path, split: str, names: list[str], images: Path | None) -> Path:
    """The folder to which the file names of a split are relative: the first with some of them, else the usual one."""
    usual = images or root / split
    candidates = [images, images / split] if images else [usual]
    if any("/" in name for name in names):  # names that contain the folder are relative to the root
        candidates.append(root)
    existing = next((folder for folder in candidates if contains_any(folder, names)), None)
    named_by_split = not images and all(name.startswith(f"{split}/") for name in names)
    return existing or (root if named_by_split else usual)


def _size(image: _Image) -> tuple[int | None, int | None]:
    """Width and height if both are valid, else None; some programs write 0 for an unknown size."""
    width, height = (
        int(value) if isinstance(value, int | float) and 0 < value <= _MOST_PIXELS and value == int(value) else None
        for value in (image.width, image.height)
    )
    return (width, height) if width and height else (None, None)


def _captions(source: Path, annotations: list[_Caption], by_id: dict[str, str]) -> pa.Table:
    image_ids = [tables.source_id(annotation.image_id) for annotation in annotations]
    for annotation, image_id in zip(annotations, image_ids, strict=True):
        if image_id not in by_id:
            raise DatasetError(
                f"{source}: annotation {annotation.id!r} is a caption of image {annotation.image_id!r}, "
                "which is not among the file's images; add the image or remove the annotation"
            )
    return tables.captions(
        source,
        [by_id[image_id] for image_id in image_ids],
        [tables.source_id(annotation.id) for annotation in annotations],
        [annotation.caption for annotation in annotations],
    )


def _categories(source: Path, by_id: dict[str, str]) -> tuple[pa.Table | None, pa.Table | None, tuple[str, ...]]:
    """The two category tables of an instances file, None if it is missing or malformed; and warnings."""
    if not source.exists():
        return None, None, ()
    try:
        content = read_json(source, _InstancesFile, "a COCO instances file")
        return (*_read_categories(source, content, by_id), ())
    except DatasetError as error:
        return None, None, (f"{error}; ingested without categories from this file",)


def _read_categories(source: Path, content: _InstancesFile, by_id: dict[str, str]) -> tuple[pa.Table, pa.Table]:
    if not content.categories:
        raise DatasetError(f"{source} has no categories; download or write it again")
    ids = [tables.source_id(category.id) for category in content.categories]
    tables.check_unique(source, "category id", ids)
    counts = Counter((instance.image_id, instance.category_id) for instance in content.annotations)
    instances: Counter[tuple[str, str]] = Counter()
    for (image_id, category_id), times in counts.items():
        instances[tables.source_id(image_id), tables.source_id(category_id)] += times
    unknown = {category for _, category in instances}.difference(ids)
    if unknown:
        raise DatasetError(
            f"{source}: an annotation has the category_id {min(unknown)!r}, "
            "which is not among the file's categories; add the category or remove the annotation"
        )
    rows = [(by_id[image], category, times) for (image, category), times in instances.items() if image in by_id]
    categories = tables.table(
        tables.CATEGORIES,
        ids,
        [category.name for category in content.categories],
        [text if isinstance(text := category.supercategory, str) else None for category in content.categories],
    )
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    return categories, tables.table(tables.IMAGE_CATEGORIES, *columns)
