"""Options that are one of a few words: what they may be, for the command line and for Python alike.

A dataclass of options gives such a field one of the types below, which are strings to a type checker, and calls
`check` when it is made. The command line offers the same words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from clipstore.errors import OptionError, nearest


@dataclass(frozen=True)
class Choice:
    """The words that an option may be, and what the option is called."""

    name: str
    words: tuple[str, ...]


# The protocols, each with the captions that it is defined on unless a user says otherwise.
PROTOCOLS = {"standard": "all", "paired-rows": "all", "coco-1k": "first5", "eccv": "first5", "cxc": "first5"}
CAPTIONS = ("first5", "all")
SCREENS = ("auto", "bf16", "fp32", "fp64")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
STORED_TYPES = ("float32", "float16")
ITEM_KINDS = ("images", "captions")
ID_KINDS = ("source", "catalog")
REPORT_FORMATS = ("html", "md", "tex")
THUMBNAILS = ("inline", "folder")
MAPS = ("umap", "tsne", "none")

DEFAULT_MEMORY = 8 * 2**30  # bytes: the default of every --memory
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

Protocol = Annotated[str, Choice("protocol", tuple(PROTOCOLS))]
Captions = Annotated[str, Choice("set of captions", CAPTIONS)]
Screen = Annotated[str, Choice("screen", SCREENS)]
Precision = Annotated[str, Choice("precision", PRECISIONS)]
StoredType = Annotated[str, Choice("type to store vectors in", STORED_TYPES)]
ItemKind = Annotated[str, Choice("kind of items", ITEM_KINDS)]
IdKind = Annotated[str, Choice("kind of ids", ID_KINDS)]
ReportFormat = Annotated[str, Choice("format", REPORT_FORMATS)]
Thumbnails = Annotated[str, Choice("place of thumbnails", THUMBNAILS)]
MapMethod = Annotated[str, Choice("map", MAPS)]


def check(options: Any) -> None:
    """Hold the fields of a dataclass to the words that their types name; None passes where the type has it.

    Raises:
        OptionError: a value is none of them; with the nearest.
    """
    for field, (choice, optional) in _choices(type(options)).items():
        value = getattr(options, field)
        if not (value is None and optional):
            check_word(choice.name, value, choice.words)


def check_word(name: str, value: object, words: tuple[str, ...]) -> None:
    """Hold the value of the option `name` to its words.

    Raises:
        OptionError: it is none of them; with the nearest.
    """
    if not isinstance(value, str) or value not in words:
        message = f"unknown {name} {value!r}{nearest(str(value), words)}"
        raise OptionError(message)


def size_in_bytes(value: str | int) -> int:
    """The bytes of a size such as "8GB", "512MB" or 1000; the units are powers of 1024.

    Raises:
        OptionError: it is not a size greater than 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", str(value).strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not size:
        message = f"{value!r} is not a size: write 8GB or 512MB"
        raise OptionError(message)
    return size


def _choices(options: type[Any]) -> dict[str, tuple[Choice, bool]]:
    """The fields of a dataclass that are one of a few words, and whether each may be None."""
    found = {}
    for field, hint in get_type_hints(options, include_extras=True).items():
        parts: tuple[Any, ...] = (hint, *get_args(hint))
        choices = [extra for part in parts for extra in getattr(part, "__metadata__", ()) if isinstance(extra, Choice)]
        if choices:
            found[field] = choices[0], type(None) in parts
    return found
