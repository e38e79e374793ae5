"""The errors that clipstore raises.

They have one base class, so that one place (`clipstore.cli`) turns each of them into one line and an exit code. A
message states what is wrong, with which thing, and what to do.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path


class ClipstoreError(Exception):
    """An error that the user can fix; the message names the remedy."""

    exit_code = 1


class FailedItemsError(ClipstoreError):
    """A command has finished, and some of its items failed; the others are stored."""

    exit_code = 3


class DatasetError(ClipstoreError):
    """A source of annotations is missing, malformed or inconsistent, or conflicts with the catalog."""


class JobError(ClipstoreError):
    """A job file cannot be read, or has an unknown or invalid key."""


class ModelError(ClipstoreError):
    """A model cannot be found or loaded, or its files do not fit together."""


class TrainingError(ClipstoreError):
    """Training cannot start, continue or resume with these settings."""


class ImageError(ClipstoreError):
    """An image file cannot be decoded; recorded as an item failure, never fatal."""


class ShardError(ClipstoreError):
    """A shard is missing, incomplete, modified or of another format, or the shards are locked."""


class VerificationError(ClipstoreError):
    """`clipstore verify` found problems."""


class CatalogError(ClipstoreError):
    """The catalog cannot be opened, or a query cannot be run."""


class VectorError(ClipstoreError):
    """Vectors cannot be ranked or stored: wrong shape, non-finite values, unknown items."""


class ComparisonError(ClipstoreError):
    """Models cannot be compared: there is only one, or they lack evaluations on the same gallery and queries."""


class MissingExtraError(ClipstoreError):
    """A package of an optional extra of clipstore is not installed."""


class ClusterError(ClipstoreError):
    """A Ray cluster does not answer, or a node of it differs from this process, sees other files, or fails."""


class QueryError(ClipstoreError):
    """A retrieval query is not an image file, folder, address or text, or no query can be used."""


class OfflineError(ClipstoreError):
    """An action needs the network, which `--offline` or the environment forbids."""


class RemovalError(ClipstoreError):
    """A removal is ambiguous or not confirmed, or something else depends on what is to be removed."""


class BadNameError(ClipstoreError):
    """A name cannot be used in commands, paths and group/split."""


class OptionError(ClipstoreError):
    """An option has a wrong type or value."""


class FileAccessError(ClipstoreError):
    """The operating system refuses to read or write a file; raised by the Python API in place of an OSError."""


class NotFoundError(ClipstoreError):
    """There is no model, split, query, parameter or store of this name."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> NotFoundError:
        """The error for an unknown `name`, with the nearest of `known`; `hint` states the remedy."""
        return cls(f"unknown {kind} {name!r}{nearest(name, known)}{hint and '; ' + hint}")


_FULL = {errno.ENOSPC, errno.EDQUOT}


def os_error_message(error: OSError) -> str:
    """What the operating system refused, and with which file or folder."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        disk = f"the disk of {Path(error.filename).parent if error.filename else 'the output'}"
        return f"{disk} is full ({reason}): free space, then run the same command again"
    if error.errno == errno.EFBIG and reason == os.strerror(errno.EFBIG):
        limit = "the limit of 'ulimit -f' or of its file system"
        return f"{error.filename or 'the output'} would exceed {limit}: raise it, then run the same command again"
    return f"{error.filename or 'the system'}: {reason}"


_NAME = re.compile(r"\w[\w.+-]*")
_PATH_NAME = re.compile(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*")
_LONGEST_NAME = 200  # bytes: temporary names and suffixes are added to it, and file systems allow 255


def check_name(kind: str, name: str) -> None:
    """Check a new name: letters, digits and . _ + - are allowed, but not '/', which separates group and split.

    Raises:
        BadNameError: the name is not allowed.
    """
    if not _NAME.fullmatch(name) or not is_path_name(name):
        message = f"a {kind} cannot be named {name!r}: use only letters, digits and . _ + -, and at most 200 bytes"
        raise BadNameError(message)


def is_path_name(name: str) -> bool:
    """Whether a name can be that of a file or folder: it stays in its folder and is not hidden."""
    return bool(_PATH_NAME.fullmatch(name)) and len(name.encode(errors="replace")) <= _LONGEST_NAME


def path_name(kind: str, name: str) -> str:
    """A name that becomes part of a path: of a job, a model, a fingerprint. Called where the path is made.

    It is less strict than `check_name`, so that every name that earlier versions allowed and that is safe stays usable.

    Raises:
        BadNameError: the name could lead out of its folder, is hidden, empty or too long.
    """
    if not is_path_name(name):
        message = (
            f"the {kind} name {name!r} cannot be part of a path: it must not begin with '.', contain a slash, a "
            "backslash or a control character, or be longer than 200 bytes"
        )
        raise BadNameError(message)
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """The text " (did you mean …?)" if a known name is similar, else " (there are: …)"; empty without known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (there are: {', '.join(names[:12])}{', …' if len(names) > 12 else ''})" if names else ""
