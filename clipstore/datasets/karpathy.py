"""Karpathy's splits: dataset_{coco,flickr8k,flickr30k}.json, from "Deep Visual-Semantic Alignments" (2015).

The files are at https://cs.stanford.edu/people/karpathy/deepimagesent/; they do not contain the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from clipstore.datasets import tables
from clipstore.datasets.files import read_json
from clipstore.datasets.flickr import image_folder
from clipstore.records import Annotations


class _Sentence(msgspec.Struct, gc=False):
    raw: str
    sentid: int | float | str


class _Image(msgspec.Struct):
    filename: str
    split: Annotated[str, msgspec.Meta(min_length=1)]
    sentences: list[_Sentence]
    filepath: str | None = None
    cocoid: int | float | str | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    dataset: str | None = None


def read(file: Path, root: Path) -> tuple[str | None, Annotations]:
    """The dataset's name if `file` states one, and its images, captions and splits; images are below `root`.

    An image is ROOT/filepath/filename; without a filepath, ROOT/filename or in a well-known Flickr folder. Its id is
    its cocoid, else its filename, or its filepath/filename in a file where filenames repeat.
    Raises DatasetError when the file is missing, malformed, or inconsistent.
    """
    content = read_json(file, _File, "a Karpathy split file")
    names = _file_names(file, root, content.images)
    pairs = [(name, text) for name, image in zip(names, content.images, strict=True) for text in image.sentences]
    annotations = Annotations(
        images=tables.images(file, _image_ids(content.images), names, tables.paths_below(root, names)),
        captions=tables.captions(
            file,
            [name for name, _ in pairs],
            [tables.source_id(text.sentid) for _, text in pairs],
            [text.raw for _, text in pairs],
        ),
        splits=tables.splits(_members(names, content.images)),
    )
    return content.dataset, annotations


def _image_ids(images: list[_Image]) -> list[str]:
    named = [image for image in images if image.cocoid is None]
    repeated = len({image.filename for image in named}) < len(named)

    def image_id(image: _Image) -> str:
        if image.cocoid is not None:
            return tables.source_id(image.cocoid)
        return f"{image.filepath}/{image.filename}" if repeated and image.filepath else image.filename

    return [image_id(image) for image in images]


def _file_names(file: Path, root: Path, images: list[_Image]) -> list[str]:
    loose = [image.filename for image in images if not image.filepath]
    folder = image_folder(root, loose, otherwise="") if loose else ""
    return [tables.file_name(file, image.filename, image.filepath or folder) for image in images]


def _members(names: list[str], images: list[_Image]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {}
    for name, image in zip(names, images, strict=True):
        members.setdefault(image.split, []).append(name)
    return members
