"""Rows of the catalog that contradict others, by the statements of sql/consistency.sql."""

from __future__ import annotations

from collections.abc import Iterator

from clipstore.catalog import Session
from clipstore.records import Row
from clipstore.statements import statement_names


def contradictions(session: Session) -> Iterator[Row]:
    """The statements that found rows: the "table", the "problem", the number of "rows" and an "example"."""
    results = (session.rows(name)[0] for name in statement_names("consistency"))
    return (row for row in results if row["rows"])
