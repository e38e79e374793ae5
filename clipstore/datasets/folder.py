"""A folder with a folder of images for each class: ROOT/CLASS/…/image.jpg. There are no captions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from clipstore.datasets import tables
from clipstore.datasets.files import list_folder
from clipstore.errors import DatasetError
from clipstore.files import IMAGE_SUFFIXES
from clipstore.records import Annotations


class _Contents(NamedTuple):
    """The images below one folder, relative to it, and the number of its other files."""

    images: list[str]
    others: int


def read(root: Path) -> Annotations:
    """The images below the folders of `root`, in one split `all`; the category of an image is the name of its folder.

    An image may be at any depth below the folder of its class. Files are recognized by their suffix (`IMAGE_SUFFIXES`).
    Names that begin with a dot are skipped. A folder without images is no class. Symbolic links to folders are followed
    only where they are the folder of a class.
    Raises DatasetError when `root` cannot be read, has no folder with images, or a name is not UTF-8.
    """
    names = [name for name in list_folder(root) if not name.startswith(".")]
    classes = {name: _contents(root / name) for name in names if (root / name).is_dir()}
    images = {
        tables.file_name(root, _checked_name(root, f"{label}/{image}")): label
        for label, contents in classes.items()
        for image in contents.images
    }
    if not images:
        raise DatasetError(
            f"{root} has no folder with images ({', '.join(IMAGE_SUFFIXES)}): give the folder that has a folder for "
            "each class"
        )
    files = list(images)
    return Annotations(
        images=tables.images(root, files, files, tables.paths_below(root, files)),
        captions=tables.table(tables.CAPTIONS, [], [], [], []),
        splits=tables.splits({"all": files}),
        **tables.single_labels(images),
        warnings=tuple(_warnings(root, [name for name in names if name not in classes], classes)),
    )


def _contents(folder: Path) -> _Contents:
    images, others = [], 0
    for path in _files(folder):
        if path.lower().endswith(IMAGE_SUFFIXES):
            images.append(path)
        else:
            others += 1
    return _Contents(sorted(images), others)


def _files(folder: Path) -> Iterator[str]:
    """The files below a folder, relative to it, without those whose name or folder begins with a dot."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith("."):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _checked_name(root: Path, name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"{root}: the file name {name!r} is not UTF-8, so it cannot be stored; rename it") from error
    return name


def _warnings(root: Path, files: list[str], classes: dict[str, _Contents]) -> Iterator[str]:
    images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    if images:
        yield (
            f"{root}: {len(images):,} image files are in no folder of a class (first: {images[0]!r}); they are not "
            "ingested"
        )
    others = sum(contents.others for contents in classes.values())
    if others:
        yield f"{root}: {others:,} files in the folders of classes are no images by their names; they are not ingested"
    empty = [name for name, contents in classes.items() if not contents.images]
    if empty:
        yield f"{root}: {len(empty):,} folders have no images and are no classes (first: {empty[0]!r})"
