"""Karpathy's splits: dataset_{coco,flickr8k,flickr30k}.json, from "Deep Visual-Semantic Alignments" (2015).

https://cs.stanford.edu/people/karpathy/deepimagesent/ has the files; the photos come from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from clipstore.datasets import tables
from clipstore.datasets.files import read_json
from clipstore.datasets.flickr import photo_folder
from clipstore.records import Annotations


class _Sentence(msgspec.Struct, gc=False):
    raw: str
    sentid: int | str


class _Image(msgspec.Struct):
    filename: str
    split: Annotated[str, msgspec.Meta(min_length=1)]
    sentences: list[_Sentence]
    filepath: str = ""
    cocoid: int | str | None = None


class _File(msgspec.Struct):
    dataset: str
    images: list[_Image]


def read(file: Path, root: Path) -> tuple[str, Annotations]:
    """The data set's name as `file` tells it, and its images, captions and splits; photos lie under `root`.

    A photo is ROOT/filepath/filename; without a filepath, ROOT/filename or in a well-known Flickr folder.
    Raises DatasetError when the file is missing, malformed, or contradicts itself.
    """
    told = read_json(file, _File, "a Karpathy split file")
    names = _file_names(file, root, told.images)
    ids = [image.filename if image.cocoid is None else str(image.cocoid) for image in told.images]
    pairs = [(name, said) for name, image in zip(names, told.images, strict=True) for said in image.sentences]
    categories, image_categories = tables.no_categories()
    annotations = Annotations(
        images=tables.images(file, root, ids, names),
        captions=tables.captions(
            file,
            [name for name, _ in pairs],
            [str(said.sentid) for _, said in pairs],
            [said.raw for _, said in pairs],
        ),
        splits=tables.splits(_members(names, told.images)),
        categories=categories,
        image_categories=image_categories,
    )
    return told.dataset, annotations


def _file_names(file: Path, root: Path, images: list[_Image]) -> list[str]:
    loose = [image.filename for image in images if not image.filepath]
    folder = photo_folder(root, loose, otherwise="") if loose else ""
    return [tables.file_name(file, image.filename, image.filepath or folder) for image in images]


def _members(names: list[str], images: list[_Image]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name, image in zip(names, images, strict=True):
        members.setdefault(image.split, []).append(name)
    return members
