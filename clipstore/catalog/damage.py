"""The messages for errors of DuckDB: a damaged file, a full disk, or a fault of DuckDB."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from clipstore.errors import CatalogError

REBUILD = "restore a copy of it, or run 'clipstore catalog rebuild'"

# What DuckDB says of a damaged file, and the kinds of its errors that have no other cause in our own statements than a
# damaged file or an error of DuckDB itself.
_DAMAGE = ("Corrupt database file", "Corrupt WAL file", "replaying WAL file", "not a valid DuckDB database file")
_SHORT_FILE = "Could not read enough bytes"
_DAMAGE_KINDS = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)
_OTHER_CAUSES = (
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.TransactionException,
    duckdb.InterruptException,
)


def failure(path: Path, error: duckdb.Error) -> CatalogError:
    """The error for a failed statement of clipstore on the catalog at `path`."""
    message = damage_message(path, error)
    if message is None:
        message = f"error in the catalog {path}: {one_line(error)}"
        if not isinstance(error, _OTHER_CAUSES):  # our statements are valid in an undamaged catalog
            message += f"; if it comes again, the file may be damaged: {REBUILD}"
    return CatalogError(message)


def damage_message(file: Path, error: duckdb.Error) -> str | None:
    """The message for an error of DuckDB that means that the file is damaged, else None."""
    text = str(error)
    short = _SHORT_FILE in text and str(file) in text
    if short or any(sign in text for sign in _DAMAGE):
        return f"the catalog {file} is damaged ({one_line(error)}): {REBUILD}"
    if isinstance(error, _DAMAGE_KINDS):
        reason = f"DuckDB failed on the catalog {file} ({one_line(error)})"
        return f"{reason}; if it comes again, the file is damaged: {REBUILD}"
    return None


def one_line(error: Exception) -> str:
    """A message of DuckDB with its hints in one line, without the excerpt of the statement."""
    excerpt = re.compile(r"^LINE \d+:.*\n?.*\^*\s*$", re.MULTILINE)
    return " ".join(excerpt.sub("", str(error)).split())
