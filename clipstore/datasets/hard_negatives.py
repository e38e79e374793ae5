"""Captions with hard negatives: the files of SugarCrepe, and a CSV file image_path,positive,negative[,subset].

A hard negative is a caption that is wrong for the image in one detail. Each row gives two captions of its image: the
positive has the id "SUBSET/KEY", the negative "SUBSET/KEY/negative".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from clipstore.captions import is_blank
from clipstore.datasets import csv_file, tables
from clipstore.datasets.delimited import read_delimited
from clipstore.datasets.files import list_folder, read_mapping
from clipstore.errors import DatasetError
from clipstore.records import Annotations

# The files of SugarCrepe (Hsieh et al., "SugarCrepe: Fixing Hackable Benchmarks for Vision-Language Compositionality",
# 2023).
SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")

_NUMBER = re.compile(r"0*(\d+)\.jpg")  # a file name of COCO; the number is the id of the image
_SUBSET = "all"  # of rows without a subset


class _Entry(msgspec.Struct, gc=False):
    filename: str | None = None
    caption: str | None = None
    negative_caption: str | None = None


class _Row(NamedTuple):
    """A row with the image's file name, and `place`: where it is, for messages."""

    place: str
    image: str
    positive: str
    negative: str
    subset: str
    key: str


def read_sugarcrepe(root: Path, images: Path | None = None) -> Annotations:
    """SugarCrepe: ROOT/<subset>.json, a file for each subset; images of COCO val2017 in `images`, else in ROOT.

    The id of an image is that of COCO.
    Raises DatasetError when no file is there, or one is malformed.
    """
    files = [root / name for name in list_folder(root) if name.endswith(".json")]
    if not files:
        raise DatasetError(f"{root} has no file of SugarCrepe, such as {SUGARCREPE[0]}.json; check the path")
    rows = [row for file in files for row in _read_subset(file)]
    missing = [f"{name}.json" for name in SUGARCREPE if root / f"{name}.json" not in files]
    warnings = [f"{root} lacks {', '.join(missing)} of SugarCrepe: the mean over subsets is over the others"]
    names = list(dict.fromkeys(row.image for row in rows))
    ids = [match[1] if (match := _NUMBER.fullmatch(name)) else name for name in names]
    return _annotations(root, rows, ids, images or root, tuple(warnings) if missing else ())


def read_csv(file: Path, images: Path | None = None) -> Annotations:
    """A CSV file with the columns image_path, positive, negative and, optionally, subset.

    Relative paths are below `images`, else below the folder of the file. The id of an image is its path.
    Raises DatasetError when the file is missing or malformed.
    """
    folder = file.parent if images is None else images
    table = read_delimited(file, ("image_path", "positive", "negative"), ("subset",))
    subsets = [values[3].strip() or _SUBSET for _, values in table.rows]
    rows = [
        _Row(f"row {number}", csv_file.image_name(file, folder, number, path), positive, negative, subset, str(key))
        for (number, (path, positive, negative, _)), subset, key in zip(
            table.rows, subsets, tables.ordinals(subsets), strict=True
        )
    ]
    for row in rows:
        _check_row(file, row)
    names = list(dict.fromkeys(row.image for row in rows))
    return _annotations(file, rows, names, folder, table.warnings)


def _read_subset(file: Path) -> list[_Row]:
    entries = read_mapping(file, _Entry, "a file of SugarCrepe")
    rows = []
    for key, entry in entries.items():
        place = f"row {key!r}"
        for name in ("filename", "caption", "negative_caption"):
            if getattr(entry, name) is None:
                raise DatasetError(f"{file}: {place} has no {name}; add it, or remove the row")
        image = tables.file_name(file, entry.filename or "")
        row = _Row(place, image, entry.caption or "", entry.negative_caption or "", file.stem, key)
        _check_row(file, row)
        rows.append(row)
    return rows


def _check_row(file: Path, row: _Row) -> None:
    """Refuse an empty caption: it has no vector, so that the pair could never be scored."""
    for name, text in (("caption", row.positive), ("hard negative", row.negative)):
        if is_blank(text):
            raise DatasetError(f"{file}: the {name} of {row.place} is empty; write it, or remove the row")


def _annotations(
    source: Path, rows: list[_Row], image_ids: list[str], folder: Path, warnings: tuple[str, ...]
) -> Annotations:
    names = list(dict.fromkeys(row.image for row in rows))
    positives = [f"{row.subset}/{row.key}" for row in rows]
    negatives = [f"{positive}/negative" for positive in positives]
    caption_ids = [caption for pair in zip(positives, negatives, strict=True) for caption in pair]
    texts = [text for row in rows for text in (row.positive, row.negative)]
    of_images = [row.image for row in rows for _ in range(2)]
    pairs = [[row.image for row in rows], [row.subset for row in rows], positives, negatives]
    return Annotations(
        images=tables.images(source, image_ids, names, tables.paths_below(folder, names)),
        captions=tables.captions(source, of_images, caption_ids, texts),
        splits=tables.splits({"all": names} if names else {}),
        hard_pairs=tables.table(tables.HARD_PAIRS, *pairs),
        warnings=(*warnings, *_equal_texts(source, rows)),
    )


def _equal_texts(source: Path, rows: list[_Row]) -> list[str]:
    """The warning that captions equal their hard negatives."""
    equal = [row for row in rows if row.positive == row.negative]
    if not equal:
        return []
    first = f"{equal[0].subset}, {equal[0].place}"
    return [f"{source}: {len(equal):,} captions equal their hard negative (first: {first}): each is a tie"]
