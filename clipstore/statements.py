"""The SQL statements of `sql/`, by name. Python names a statement and never builds one."""

from __future__ import annotations

import hashlib
import re
from functools import cache

from clipstore.resources import packaged_folder

# The statements that create the tables, macros and views of a catalog; each may use those before it.
SCHEMA = (
    "schema/tables",
    "schema/macros",
    "schema/words",
    "views/items",
    "views/evaluations",
    "views/query_ranks",
    "views/query_metrics",
    "views/metrics",
    "views/hubness",
    "views/hard_negatives",
    "views/caption_facts",
    "views/failed_queries",
    "views/failure_kinds",
    "views/retrieval_failures",
    "views/classifications",
)

# The parts of SCHEMA for ranks that are not stored: their tables, and the views of metrics and of hubness.
RANKS_SCHEMA = ("schema/tables",)
METRICS_SCHEMA = (
    *RANKS_SCHEMA,
    "schema/macros",
    "views/evaluations",
    "views/query_ranks",
    "views/query_metrics",
    "views/metrics",
    "views/hubness",
)

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def statement(name: str) -> str:
    """The text of the statement "GROUP/NAME".

    A group is a folder `sql/GROUP/` with a file per statement, or a file `sql/GROUP.sql` in which a line
    `-- name: NAME` precedes each statement.

    Raises:
        KeyError: the file of the group has no statement of this name.
    """
    group, _, key = name.rpartition("/")
    if (packaged_folder("sql") / group).is_dir():
        return (packaged_folder("sql") / f"{name}.sql").read_text(encoding="utf-8")
    return _statements(group)[key]


def statement_names(group: str) -> list[str]:
    """The names of a group's statements, sorted, in the form that `statement` takes."""
    folder = packaged_folder("sql") / group
    names = [path.stem for path in folder.glob("*.sql")] if folder.is_dir() else _statements(group)
    return sorted(f"{group}/{name}" for name in names)


@cache
def schema_digest() -> str:
    """SHA-256 of the statements of SCHEMA: an equal digest means that a catalog has these tables and views already."""
    return hashlib.sha256("".join(map(statement, SCHEMA)).encode()).hexdigest()


@cache
def _statements(group: str) -> dict[str, str]:
    """The statements of `sql/GROUP.sql` by name."""
    _, *parts = _NAME.split((packaged_folder("sql") / f"{group}.sql").read_text(encoding="utf-8"))
    return {name: text.strip() + "\n" for name, text in zip(parts[::2], parts[1::2], strict=True)}
