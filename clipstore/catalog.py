"""The catalog: a DuckDB file, opened late and closed early, that runs the named statements of `sql/`.

Python names a statement and never builds one. One process may write, or many may read: an open that finds the file
taken waits a little and then says which process holds it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from clipstore.errors import CatalogError, NotFoundError
from clipstore.packaged import folder

FORMAT_VERSION = 1
BUSY_SECONDS = 10.0

# What makes a catalog, each after what it reads.
_SCHEMA = (
    "schema/tables",
    "schema/macros",
    "schema/words",
    "views/image_items",
    "views/caption_items",
    "views/positive_ranks",
    "views/query_ranks",
    "views/query_changes",
    "views/query_precision",
    "views/query_folds",
    "views/query_metrics",
    "views/query_seen",
    "views/subset_metrics",
    "views/metrics",
    "views/k_occurrences",
    "views/hubness",
    "views/caption_facts",
    "views/failed_queries",
    "views/failure_kinds",
    "views/named_failures",
    "views/retrieval_failures",
    "views/asked_evaluations",
)

Row = dict[str, Any]


@cache
def statement(name: str) -> str:
    """The text of `sql/NAME.sql`."""
    return (folder("sql") / f"{name}.sql").read_text(encoding="utf-8")


def named(group: str) -> list[str]:
    """The names of the statements in `sql/GROUP/`, in order."""
    return sorted(f"{group}/{path.stem}" for path in (folder("sql") / group).glob("*.sql"))


class Session:
    """An open catalog. Use it within `Catalog.read` or `Catalog.write` alone."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def stage(self, **tables: pa.Table) -> None:
        """Make Arrow tables visible to statements under their names, until the session ends."""
        for name, table in tables.items():
            self._connection.register(name, table)

    def run(self, name: str, /, **parameters: object) -> int:
        """Run `sql/NAME.sql`; the number of rows that it changed."""
        answer = self._connection.execute(statement(name), dict(parameters) or None).fetchall()
        return int(answer[0][0]) if answer and isinstance(answer[0][0], int) else 0

    def rows(self, name: str, /, **parameters: object) -> list[Row]:
        """The answer of `sql/NAME.sql`, a mapping a row."""
        return list(self.table(name, **parameters).to_pylist())

    def row(self, name: str, /, **parameters: object) -> Row | None:
        """The first row of the answer of `sql/NAME.sql`, or None."""
        return next(iter(self.rows(name, **parameters)), None)

    def table(self, name: str, /, **parameters: object) -> pa.Table:
        """The answer of `sql/NAME.sql` as an Arrow table."""
        return self._answer(statement(name), parameters)

    def ask(self, text: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
        """The answer of a user's own statement.

        Raises:
            CatalogError: it is not one statement, or DuckDB refuses it.
        """
        try:
            if len(duckdb.extract_statements(text)) != 1:
                message = "give exactly one SQL statement"
                raise CatalogError(message)
            return self._answer(text, parameters or {})
        except duckdb.Error as error:
            raise CatalogError(_first_line(error)) from error

    def _answer(self, text: str, parameters: Mapping[str, object]) -> pa.Table:
        relation = self._connection.sql(text, params=dict(parameters) or None)
        return pa.table({}) if relation is None else relation.to_arrow_table()


def parameters_of(text: str) -> set[str]:
    """The $named parameters of a statement."""
    return set().union(*(part.named_parameters for part in duckdb.extract_statements(text)))


@dataclass(frozen=True)
class Catalog:
    """The catalog of one store.

    Raises (from `read` and `write`):
        NotFoundError: there is no catalog at this place yet.
        CatalogError: it is damaged, made by a newer clipstore, or held by another process for too long.
    """

    path: Path

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open for reading alone; many processes may at once. A catalog of another version is brought up to date."""
        if not self.path.exists():
            raise NotFoundError(self._no_store())
        with self._open(read_only=True) as connection:
            told = self._format(connection)
            if told is None:  # a first ingest that failed leaves a catalog without tables
                raise NotFoundError(self._no_store())
            if told.get("schema_digest") == _schema_digest():
                yield Session(connection)
                return
        with self.write():
            pass  # its tables and views are made
        with self._open(read_only=True) as connection:
            yield Session(connection)

    @contextmanager
    def write(self, *, create: bool = False, keep: bool = True) -> Iterator[Session]:
        """Open for writing, in one transaction: all of it is kept when the block ends well, else none of it.

        With `create`, a store that is not there is begun; without `keep`, the block was a trial, and nothing is kept.
        """
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        elif not self.path.exists():
            raise NotFoundError(self._no_store())
        with self._open(read_only=False) as connection:
            told, digest = self._format(connection), _schema_digest()
            connection.begin()
            if told is None or told.get("schema_digest") != digest:
                _make_schema(connection)
                connection.execute(statement("catalog/forget_stamp"))
                connection.execute(statement("catalog/stamp"), {"version": FORMAT_VERSION, "digest": digest})
            try:
                yield Session(connection)
            except BaseException:
                connection.rollback()
                raise
            if keep:
                connection.commit()
            else:
                connection.rollback()

    def _no_store(self) -> str:
        return f"no store at {self.path.parent}: begin with 'clipstore ingest', or name another with --store"

    @contextmanager
    def _open(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._connect(read_only=read_only)
        try:
            yield connection
        except duckdb.Error as error:  # a full disk, most of all
            message = f"the catalog {self.path} cannot go on: {_first_line(error)}"
            raise CatalogError(message) from error
        finally:
            connection.close()

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Connect, waiting up to BUSY_SECONDS while another process holds the catalog."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.IOException as error:
                holder = re.search(r"held in (.*?) \(PID (\d+)\)", str(error))
                if "Could not set lock" not in str(error):
                    message = f"cannot open the catalog {self.path}: {_first_line(error)}"
                    raise CatalogError(message) from error
                if time.monotonic() > deadline:
                    who = f"process {holder[2]} ({holder[1]})" if holder else "another process"
                    message = f"the catalog {self.path} is held by {who}: wait for it to end, or stop it"
                    raise CatalogError(message) from error
                time.sleep(0.05)

    def _format(self, connection: duckdb.DuckDBPyConnection) -> Row | None:
        """What the catalog says of its own making, or None: nothing is made yet. A newer format is refused."""
        if not connection.execute(statement("catalog/has_format")).fetchall():
            return None
        told: Row = connection.sql(statement("catalog/format")).to_arrow_table().to_pylist()[0]
        if told["version"] > FORMAT_VERSION:
            message = (
                f"the store {self.path.parent} has format {told['version']}; this clipstore knows up to "
                f"{FORMAT_VERSION}: install a newer clipstore"
            )
            raise CatalogError(message)
        return told


@contextmanager
def scratch() -> Iterator[Session]:
    """An empty catalog in memory, gone with the block: for answers about what is kept nowhere."""
    connection = duckdb.connect(":memory:")
    try:
        _make_schema(connection)
        yield Session(connection)
    finally:
        connection.close()


def _make_schema(connection: duckdb.DuckDBPyConnection) -> None:
    for name in _SCHEMA:
        connection.execute(statement(name))


@cache
def _schema_digest() -> str:
    """What the statements that make a catalog are, in one word: one that they made already is not made again."""
    return hashlib.sha256("".join(map(statement, _SCHEMA)).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
