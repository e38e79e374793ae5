"""The tables of `Annotations`, and the checks of every source."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import pyarrow as pa

from clipstore.errors import DatasetError
from clipstore.objects import url_of

IMAGES = pa.schema(
    [
        ("source_id", pa.string()),
        ("file_name", pa.string()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
CAPTIONS = pa.schema(
    [("image", pa.string()), ("source_id", pa.string()), ("text", pa.string()), ("position", pa.int32())]
)
SPLITS = pa.schema([("split", pa.string()), ("image", pa.string()), ("position", pa.int32())])
CATEGORIES = pa.schema([("source_id", pa.string()), ("name", pa.string()), ("supercategory", pa.string())])
IMAGE_CATEGORIES = pa.schema([("image", pa.string()), ("category", pa.string()), ("instances", pa.int32())])
HARD_PAIRS = pa.schema([(name, pa.string()) for name in ("image", "subset", "positive", "negative")])

# A drive letter ("C:/images") or a backslash leaves the folder on Windows, and only there: refused on all systems.
_OUTSIDE = re.compile(r"/|[A-Za-z]:|.*[\\\0]", re.DOTALL)


def images(
    source: Path,
    source_ids: Sequence[str],
    file_names: Sequence[str],
    paths: Sequence[str],
    sizes: Sequence[tuple[int | None, int | None]] | None = None,
) -> pa.Table:
    """The images table; `paths` are absolute, `sizes` are widths and heights.

    Raises DatasetError naming `source` for an image id or a file name that occurs twice.
    """
    check_unique(source, "image id", source_ids)
    check_unique(source, "file name", file_names)
    sizes = sizes or [(None, None)] * len(source_ids)
    return table(
        IMAGES,
        source_ids,
        file_names,
        paths,
        [width for width, _ in sizes],
        [height for _, height in sizes],
    )


def captions(source: Path, image_names: Sequence[str], source_ids: Sequence[str], texts: Sequence[str]) -> pa.Table:
    """The captions table, in the order given; DatasetError naming `source` for a repeated caption id."""
    check_unique(source, "caption id", source_ids)
    return table(CAPTIONS, image_names, source_ids, texts, ordinals(image_names))


def splits(members: dict[str, list[str]]) -> pa.Table:
    """The splits table of each split's file names, in order."""
    rows = [(split, name, at) for split, names in members.items() for at, name in enumerate(names)]
    return table(SPLITS, *zip(*rows, strict=True)) if rows else table(SPLITS, [], [], [])


def single_labels(labels: Mapping[str, str]) -> dict[str, pa.Table]:
    """The tables `categories` and `image_categories` of images with one category each, by the name of its image.

    The categories are in the order of their names; the name of a category is its id too.
    """
    names = sorted(set(labels.values()))
    return {
        "categories": table(CATEGORIES, names, names, [None] * len(names)),
        "image_categories": table(IMAGE_CATEGORIES, list(labels), list(labels.values()), [1] * len(labels)),
    }


def table(schema: pa.Schema, *columns: Sequence[object]) -> pa.Table:
    """An Arrow table of `columns` with `schema`."""
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def source_id(value: float | str) -> str:
    """An id as text. Some programs write integers as floating-point numbers: 1.0 is the id 1."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def file_name(source: Path, name: str, folder: str = "") -> str:
    """`folder`/`name` in normal form ("./a//b.jpg" is "a/b.jpg"), without access to the disk.

    Raises DatasetError naming `source` when a name leaves the folder to which it is relative.
    """
    if folder:
        return file_name(source, f"{folder}/{file_name(source, name)}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or _OUTSIDE.match(name):
        raise DatasetError(
            f"{source}: the file name {name!r} does not stay in its folder; "
            "write it relative to that folder, with forward slashes and without '..'"
        )
    return "/".join(parts)


def check_unique(source: Path, what: str, values: Sequence[str]) -> None:
    """DatasetError naming `source` and the first value that occurs more than once."""
    if len(set(values)) < len(values):
        repeated = next(value for value, times in Counter(values).items() if times > 1)
        raise DatasetError(f"{source}: the {what} {repeated!r} occurs more than once; keep one of them")


def ordinals(keys: Sequence[str]) -> list[int]:
    """For each key, the number of equal keys before it."""
    counters: defaultdict[str, count[int]] = defaultdict(count)
    return [next(counters[key]) for key in keys]


def paths_below(folder: Path, names: Sequence[str]) -> list[str]:
    """The absolute paths of names below `folder`, which may be a URL (see `objects.url_of`); absolute names are kept.

    Raises DatasetError for a folder whose name is not UTF-8.
    """
    base = (url_of(folder) or _absolute(folder)).rstrip("/")
    return [name if name.startswith("/") else f"{base}/{name}" for name in names]


def _absolute(root: Path) -> str:
    base = root.absolute().as_posix().rstrip("/")
    try:
        base.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(f"the folder name {base!r} is not UTF-8, so it cannot be stored; rename it") from error
    return base
