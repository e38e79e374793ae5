"""Flickr8k, Flickr30k and datasets of the same layout: a captions file, an image folder, split lists.

Flickr8k.token.txt and Flickr_8k.*Images.txt come from Hodosh, Young and Hockenmaier's release, and captions.txt is its
CSV form on Kaggle. results_20130124.token and results.csv are the two forms of Flickr30k.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from clipstore.datasets import tables
from clipstore.datasets.delimited import read_delimited
from clipstore.datasets.files import list_folder, read_lines
from clipstore.errors import DatasetError
from clipstore.records import Annotations

# The captions files, by name, and the dataset of each; the first that exists is read.
CAPTION_FILES = {
    "Flickr8k.token.txt": "flickr8k",
    "captions.txt": "flickr8k",
    "results_20130124.token": "flickr30k",
    "results.csv": "flickr30k",
}
FOLDERS = (
    "Flicker8k_Dataset",
    "Flickr8k_Dataset",
    "Images",
    "images",
    "flickr30k_images",
    "flickr30k-images",
)
SPLIT_LISTS = {split: f"Flickr_8k.{split}Images.txt" for split in ("train", "dev", "test")}

# A row of results.csv: `name.jpg| 0| caption`. The published file lacks the second bar in one row.
_RESULTS_ROW = re.compile(r"([^|]+)\|\s*(\d+)\s*(\||\s)\s*(.*)", re.DOTALL)


class _Caption(NamedTuple):
    image: str
    key: str
    text: str


def read(root: Path, images: Path | None = None) -> Annotations:
    """The captions of a folder in the layout of Flickr8k or Flickr30k; the splits that have a list, and `all`.

    The image files are in `images`, else in a well-known folder below ROOT.
    Raises DatasetError when there is no captions file, or a file is malformed or inconsistent.
    """
    source = captions_file(root)
    captions, warnings = _read_captions(source)
    ids = list(dict.fromkeys(caption.image for caption in captions))
    usual = {"flickr8k": "Flicker8k_Dataset", "flickr30k": "flickr30k_images"}[CAPTION_FILES[source.name]]
    folder = image_folder(root, ids, otherwise=usual)
    by_id = {image: tables.file_name(source, image, folder) for image in ids}
    names = list(by_id.values())
    paths = tables.paths_below(root, names) if images is None else tables.paths_below(images, ids)
    return Annotations(
        images=tables.images(source, ids, names, paths),
        captions=tables.captions(
            source,
            [by_id[caption.image] for caption in captions],
            [caption.key for caption in captions],
            [caption.text for caption in captions],
        ),
        splits=tables.splits({**_split_lists(root, by_id), "all": names}),
        warnings=warnings,
    )


def captions_file(root: Path) -> Path:
    """The captions file of a folder; DatasetError when there is none."""
    present = list_folder(root)
    for name in CAPTION_FILES:
        if name in present:
            return root / name
    names = ", ".join(CAPTION_FILES)
    raise DatasetError(f"{root} has none of {names}; give the folder that contains one of them")


def image_folder(root: Path, names: Iterable[str], *, otherwise: str) -> str:
    """The folder below `root` that contains any image of `names`: a well-known one, or `root` itself ("").

    Archives often unpack into a folder of the same name, so each folder is also searched one level down. Without any
    such image: a well-known folder that exists, else `otherwise`.
    """
    image_names = set(names)
    nested = [f"{outer}/{inner}" for outer in FOLDERS for inner in FOLDERS]
    existing = [folder for folder in (*FOLDERS, *nested, "") if (root / folder).is_dir()]
    for folder in existing:
        if not image_names.isdisjoint(list_folder(root / folder)):
            return folder
    return next(filter(None, existing), otherwise)


def is_results_csv(file: Path) -> bool:
    """Whether a file has the form of Flickr30k's results.csv, whose captions are not quoted."""
    return is_results_header(read_lines(file)[0])


def is_results_header(line: str) -> bool:
    """Whether a line is the header of Flickr30k's results.csv."""
    return line.replace(" ", "") == "image_name|comment_number|comment"


def read_results_csv(file: Path) -> tuple[list[tuple[int, str, str, str]], tuple[str, ...]]:
    """The rows (row number, image name, ordinal, caption) of Flickr30k's results.csv, and warnings.

    Raises DatasetError for a row that is not `name.jpg| 0| caption`.
    """
    rows, warnings = [], []
    for number, line in enumerate(read_lines(file)[1:], start=2):
        match = _RESULTS_ROW.fullmatch(line)
        if match:
            rows.append((number, match[1].strip(), match[2], match[4]))
            if match[3] != "|":
                warnings.append(f"{file}: row {number} has no '|' before its caption; read as {match[4][:60]!r}")
        elif line.strip():
            raise DatasetError(f"{file}: row {number} is not `name.jpg| 0| caption`: {line[:60]!r}; fix that row")
    return rows, tuple(warnings)


def _read_captions(file: Path) -> tuple[list[_Caption], tuple[str, ...]]:
    if file.suffix == ".token" or file.name.endswith(".token.txt"):
        return _read_tokens(file), ()
    if is_results_csv(file):
        results, warnings = read_results_csv(file)
        return [_Caption(name, f"{name}#{ordinal}", text) for _, name, ordinal, text in results], warnings
    table = read_delimited(file, ("image_path", "caption"))
    names = [name for _, (name, _) in table.rows]
    ordinals = tables.ordinals(names)
    rows = zip(table.rows, ordinals, strict=True)
    return [_Caption(name, f"{name}#{at}", text) for (_, (name, text)), at in rows], table.warnings


def _read_tokens(file: Path) -> list[_Caption]:
    rows = []
    for number, line in enumerate(read_lines(file), start=1):
        key, tab, caption = line.partition("\t")
        name, _, ordinal = key.rpartition("#")
        if tab and name and ordinal.isdecimal():
            rows.append(_Caption(name, key, caption))
        elif line.strip():
            raise DatasetError(f"{file}: line {number} is not `name.jpg#0<TAB>caption`: {line[:60]!r}; fix that line")
    return rows


def _split_lists(root: Path, by_id: dict[str, str]) -> dict[str, list[str]]:
    """The members of each split that has a list; DatasetError for an image that two lists name."""
    composed = {unicodedata.normalize("NFC", name): name for name in by_id}
    members = {}
    owners: dict[str, str] = {}
    for split, list_name in SPLIT_LISTS.items():
        file = root / list_name
        if not file.exists():
            continue
        names = [line.strip() for line in read_lines(file) if line.strip()]
        names = [name if name in by_id else composed.get(unicodedata.normalize("NFC", name), name) for name in names]
        tables.check_unique(file, "image", names)
        for name in names:
            if name not in by_id:
                raise DatasetError(f"{file} lists {name!r}, which has no captions; remove it from the list")
            owner = owners.setdefault(name, list_name)
            if owner != list_name:
                raise DatasetError(f"{file} lists {name!r}, which is in {owner} too; keep it in one of them")
        members[split] = [by_id[name] for name in names]
    return members
