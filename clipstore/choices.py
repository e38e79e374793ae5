"""Options with a fixed set of values, for the command line and for Python alike; and sizes in bytes.

A dataclass of options annotates such a field with one of the types below, and calls `check` when it is constructed.
The command line offers the same values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

from clipstore.errors import OptionError, nearest
from clipstore.records import CaptionSet, PrecisionOption, ProtocolName, ScreenPrecision


@dataclass(frozen=True)
class Choice:
    """Marks the type of an option that has a fixed set of values, with the option's name in messages."""

    name: str


ProtocolChoice = Annotated[ProtocolName, Choice("protocol")]
CaptionsChoice = Annotated[CaptionSet, Choice("set of captions")]
ScreenChoice = Annotated[ScreenPrecision, Choice("screen")]
PrecisionChoice = Annotated[PrecisionOption, Choice("precision")]
MatchingPrecisionChoice = Annotated[Literal["fp32", "bf16"], Choice("precision of matching")]
StoredTypeChoice = Annotated[Literal["float32", "float16"], Choice("type to store vectors in")]
ItemKindChoice = Annotated[Literal["images", "captions"], Choice("kind of items")]
LabelsChoice = Annotated[Literal["single", "multi"], Choice("kind of labels")]
TaskChoice = Annotated[Literal["retrieval", "zeroshot"], Choice("task")]
IdKindChoice = Annotated[Literal["source", "catalog"], Choice("kind of ids")]
ReportFormatChoice = Annotated[Literal["html", "md", "tex"], Choice("format")]
ThumbnailsChoice = Annotated[Literal["inline", "folder"], Choice("place of thumbnails")]
MapChoice = Annotated[Literal["umap", "tsne", "none"], Choice("map")]


def values_of(choice: Any) -> tuple[str, ...]:
    """The values of one of the types above."""
    return get_args(get_args(choice)[0])


CAPTIONS = values_of(CaptionsChoice)
SCREENS = values_of(ScreenChoice)
PRECISIONS = values_of(PrecisionChoice)
MATCHING_PRECISIONS = values_of(MatchingPrecisionChoice)
STORED_TYPES = values_of(StoredTypeChoice)
ITEM_KINDS = values_of(ItemKindChoice)
LABELS = values_of(LabelsChoice)
TASKS = values_of(TaskChoice)
ID_KINDS = values_of(IdKindChoice)
THUMBNAILS = values_of(ThumbnailsChoice)
MAPS = values_of(MapChoice)

DEFAULT_MEMORY = 8 * 2**30  # bytes: the default of every --memory
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def check(options: Any) -> None:
    """Check every field of a dataclass whose type is a choice; None is valid where the type permits it.

    Raises:
        OptionError: a value is not one of the choices; with the nearest.
    """
    for field, (choice, values, optional) in _choices(type(options)).items():
        value = getattr(options, field)
        if not (value is None and optional):
            check_value(choice.name, value, values)


def check_value(name: str, value: object, values: tuple[str, ...]) -> None:
    """Check the value of the option `name`.

    Raises:
        OptionError: it is not one of `values`; with the nearest.
    """
    if not isinstance(value, str) or value not in values:
        message = f"unknown {name} {value!r}{nearest(str(value), values)}"
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


def _choices(options: type[Any]) -> dict[str, tuple[Choice, tuple[str, ...], bool]]:
    """The fields of a dataclass that are choices: the choice, its values, and whether None is valid."""
    fields = {}
    for field, hint in get_type_hints(options, include_extras=True).items():
        parts: tuple[Any, ...] = (hint, *get_args(hint))
        for part in parts:
            for mark in getattr(part, "__metadata__", ()):
                if isinstance(mark, Choice):
                    fields[field] = mark, values_of(part), type(None) in parts
    return fields
