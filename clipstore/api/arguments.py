"""Types of the arguments of the Python API, and the check of each call against them."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from clipstore.choices import Choice, check_value, size_in_bytes, values_of
from clipstore.errors import FileAccessError, OptionError, os_error_message


@dataclass(frozen=True)
class Kind:
    """What a type of argument accepts, in words for messages and as a test."""

    words: str
    accepts: Callable[[Any], bool]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_file(value: Any) -> bool:
    return isinstance(value, str | Path) and str(value) != "" and "\0" not in str(value)


def _is_size(value: Any) -> bool:
    try:
        return isinstance(value, str | int) and not isinstance(value, bool) and size_in_bytes(value) > 0
    except OptionError:
        return False


def _are_parameters(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_name, value))


def _one_or_more(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Accept a value, or a sequence of at least one."""

    def accepts_several(value: Any) -> bool:
        several = isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0
        return accepts(value) or (several and all(map(accepts, value)))

    return accepts_several


Names = Annotated[str | Sequence[str], Kind("a name or a sequence of names", _one_or_more(_is_name))]
File = Annotated[str | Path, Kind("a path", _is_file)]
Files = Annotated[str | Path | Sequence[str | Path], Kind("a path or a sequence of paths", _one_or_more(_is_file))]
Counts = Annotated[
    int | Sequence[int],
    Kind(
        "an integer or a sequence of integers",
        _one_or_more(lambda value: isinstance(value, int) and not isinstance(value, bool)),
    ),
]
Queries = Annotated[
    str | Path | Sequence[str | Path],
    Kind("a text, a path or a sequence of them", _one_or_more(lambda value: isinstance(value, str | Path))),
]
Array = Annotated[
    str | Path | NDArray[Any],
    Kind("an array or the path of a .npy file", lambda value: isinstance(value, np.ndarray) or _is_file(value)),
]
Size = Annotated[int | str, Kind("a size such as '8GB' or a number of bytes", _is_size)]
Parameters = Annotated[Mapping[str, str | int | float], Kind("a mapping of names to values", _are_parameters)]
ProgressCallback = Callable[[str, int, int, str], object]  # task, items done, total, note
ShowProgress = Annotated[
    ProgressCallback | bool | None,
    Kind("True, a callable or None", lambda value: value is None or isinstance(value, bool) or callable(value)),
]
Positive = Annotated[int, Meta(ge=1)]
AtLeastTwo = Annotated[int, Meta(ge=2)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
ProperFraction = Annotated[float, Meta(gt=0, lt=1)]

Item = TypeVar("Item", str, str | Path)
P = ParamSpec("P")
R = TypeVar("R")

_KINDS = {
    str: Kind("a string", lambda value: isinstance(value, str)),
    bool: Kind("True or False", lambda value: isinstance(value, bool)),
    int: Kind("an integer", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: Kind("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    NoneType: Kind("None", lambda value: value is None),
}
_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("greater than", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("less than", operator.lt),
}


def checked(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method check its arguments by their annotations before it runs; numpy's scalars become Python's.

    Raises (from the method):
        OptionError: an argument has a wrong type or value.
        FileAccessError: the operating system refuses a file; in place of an OSError.
    """
    signature = inspect.signature(method)

    @wraps(method)
    def checked_method(*args: P.args, **options: P.kwargs) -> R:
        try:
            call = signature.bind(*args, **options)
        except TypeError:
            return method(*args, **options)  # raises Python's own error, which names the method
        hints = _hints(method)
        for name, value in call.arguments.items():
            if name in hints:
                call.arguments[name] = value.item() if isinstance(value, np.generic) else value
                _check(name, call.arguments[name], hints[name])
        try:
            return method(*call.args, **call.kwargs)
        except OSError as error:
            raise FileAccessError(os_error_message(error)) from error

    return checked_method


def names(value: Item | Sequence[Item] | None) -> tuple[Item, ...]:
    """One name or several as a tuple; None: no names."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Path) else tuple(value)


@cache
def _hints(method: Callable[..., Any]) -> dict[str, Any]:
    """The types of a method's arguments, with their constraints."""
    hints = get_type_hints(method, include_extras=True)
    return {name: hint for name, hint in hints.items() if name != "return"}


def _check(name: str, value: object, hint: Any) -> None:
    """Raise an OptionError where `value` is not of the type `hint`."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [_kind(part) for part in parts]
    if any(kind.accepts(value) for kind in kinds):
        return
    for part in parts:
        for choice in getattr(part, "__metadata__", ()):
            if isinstance(choice, Choice):
                check_value(choice.name, value, values_of(part))
    message = f"{name} must be {' or '.join(kind.words for kind in kinds)}, not {value!r}"
    raise OptionError(message)


def _kind(hint: Any) -> Kind:
    """What a type with its constraint accepts."""
    if get_origin(hint) is not Annotated:
        return _KINDS[hint]
    base, constraint = get_args(hint)
    if isinstance(constraint, Kind):
        return constraint
    if isinstance(constraint, Choice):
        words = values_of(hint)
        return Kind(f"one of {', '.join(words)}", lambda value: isinstance(value, str) and value in words)
    return _bounded(_KINDS[base], constraint)


def _bounded(kind: Kind, bounds: Meta) -> Kind:
    """A kind of number within bounds."""
    limits = [(*_BOUNDS[key], limit) for key in _BOUNDS if (limit := getattr(bounds, key)) is not None]
    words = " and ".join(f"{words} {limit}" for words, _, limit in limits)
    return Kind(
        f"{kind.words} {words}",
        lambda value: kind.accepts(value) and all(holds(value, limit) for _, holds, limit in limits),
    )
