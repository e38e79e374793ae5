"""Additional positives for COCO's test captions, ECCV Caption and CxC, from the package eccv-caption.

ECCV Caption (Chun et al., 2022): matching images and captions, proposed by models and verified by annotators, for 1,261
images and 1,332 captions. CxC (Parekh et al., 2021): pairs that annotators rated as similar, for nearly all of them.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import pyarrow as pa

from clipstore.datasets.files import read_json
from clipstore.errors import DatasetError

SOURCES = ("eccv", "cxc")

_IDS = dict[str, list[int | str]]


def extended_positives(name: str) -> tuple[pa.Table, pa.Table]:
    """The positives of "eccv" or "cxc" for image queries and for caption queries: columns image, caption (source ids).

    Raises:
        DatasetError: the package eccv-caption is not installed.
    """
    folder = _folder()
    if folder is None:
        message = f"the protocol {name} needs the positives of eccv-caption: pip install 'clipstore[eccv]'"
        raise DatasetError(message)
    image_queries = _read(folder / f"{name}_image_to_caption.json", ("image", "caption"))
    return image_queries, _read(folder / f"{name}_caption_to_image.json", ("caption", "image"))


def all_positives() -> pa.Table | None:
    """All positives of both directions: columns source ("eccv", "cxc"), image, caption; None without the package."""
    if _folder() is None:
        return None
    parts = [(name, side.select(["image", "caption"])) for name in SOURCES for side in extended_positives(name)]
    return pa.concat_tables(part.add_column(0, "source", pa.repeat(name, part.num_rows)) for name, part in parts)


def _folder() -> Path | None:
    """The folder of the package's data files; the package is not imported."""
    spec = importlib.util.find_spec("eccv_caption")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "data"


@cache
def _read(file: Path, columns: tuple[str, str]) -> pa.Table:
    content = read_json(file, _IDS, "a file of eccv-caption")
    pairs = [(query, str(positive)) for query, positives in content.items() for positive in positives]
    return pa.table(dict(zip(columns, map(pa.array, zip(*pairs, strict=True)), strict=True)))
