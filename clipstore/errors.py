"""Every error that clipstore raises on purpose.

One root, so that one place (``clipstore.cli``) can turn any of them into one line and an exit code.
A message names the thing that is wrong and says what to do next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class ClipstoreError(Exception):
    """Something the user can mend; the message says what and how."""


class DatasetError(ClipstoreError):
    """An annotation source is missing, malformed, or contradicts itself."""


class JobError(ClipstoreError):
    """A job file cannot be read, or says something that clipstore does not know."""


class ModelError(ClipstoreError):
    """A model cannot be had, or its files do not fit together."""


class TrainingError(ClipstoreError):
    """Training cannot begin, go on, or be resumed as asked."""


class ImageError(ClipstoreError):
    """One photo cannot be turned into pixels; recorded as an item failure, never fatal."""


class ShardError(ClipstoreError):
    """A shard file is missing, incomplete, changed, or of another format."""


class CatalogError(ClipstoreError):
    """The catalog cannot be opened, or a query cannot be run."""


class VectorError(ClipstoreError):
    """Vectors that cannot be ranked or stored: wrong shape, not finite, unknown rows."""


class ComparisonError(ClipstoreError):
    """Models that cannot be compared: one alone, not measured yet, or measured on different things."""


class MissingExtraError(ClipstoreError):
    """A package that only an extra of clipstore brings is not installed."""


class QueryError(ClipstoreError):
    """What a split is asked with is no photo, folder, address or sentence, or none of it can be used."""


class RemovalError(ClipstoreError):
    """What is to be removed is not named clearly, is needed by something else, or was not confirmed."""


class BadNameError(ClipstoreError):
    """A new name that would not fit where names go: in commands, paths and group/split."""


class OptionError(ClipstoreError):
    """An option has a wrong type or value."""


class FileAccessError(ClipstoreError):
    """The operating system refuses to read or write a file; raised by the Python API in place of an OSError."""


class NotFoundError(ClipstoreError):
    """A name (model, split, query, parameter) that the store does not know."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, otherwise: str = "") -> NotFoundError:
        """The error for an unknown `name`, with the nearest known one; `otherwise` says what to do next."""
        return cls(f"unknown {kind} {name!r}{nearest(name, known)}{otherwise and '; ' + otherwise}")


_NAME = re.compile(r"\w[\w.+-]*")


def check_name(kind: str, name: str) -> None:
    """Hold a new name to the rule: letters, digits and . _ + -; most of all no '/', which joins group and split.

    Raises:
        BadNameError: it does not keep it.
    """
    if not _NAME.fullmatch(name):
        message = f"a {kind} cannot be named {name!r}: use letters, digits and . _ + - alone"
        raise BadNameError(message)


def nearest(name: str, known: Iterable[str]) -> str:
    """The words " (did you mean …?)", or " (there are: …)" when nothing comes near, or nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (there are: {', '.join(names[:12])}{', …' if len(names) > 12 else ''})" if names else ""
