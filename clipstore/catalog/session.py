"""A session in an open catalog: named statements, staged tables, and a user's statements, which are checked first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from clipstore.catalog.access import ALLOW, ALLOW_NETWORK, Access, with_hint
from clipstore.catalog.damage import damage_message, one_line
from clipstore.errors import CatalogError
from clipstore.records import Row
from clipstore.spool import BATCH_ROWS
from clipstore.statements import statement

_CHANGES_SETTINGS = {"ATTACH", "LOAD", "SET", "OTHER"}  # kinds of statements


class Session:
    """An open catalog, valid within the block of `Catalog.read` or `Catalog.write`.

    `restricted` says whether DuckDB keeps statements from files and the network by the connection's configuration.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        access: Access = Access.NONE,
        *,
        file: Path | None = None,
        is_new: bool = False,
        restricted: bool = True,
    ) -> None:
        self._connection, self._file, self._access, self._restricted = connection, file, access, restricted
        self.is_new = is_new  # whether this session creates the catalog
        self._extensions_checked = False  # whether the loaded extensions have been checked
        self._readers: list[pa.RecordBatchReader] = []

    def stage(self, **tables: pa.Table) -> None:
        """Make Arrow tables visible to statements under their names, until the session ends."""
        for name, table in tables.items():
            self._connection.register(name, table)

    def run(self, name: str, /, **parameters: object) -> int:
        """Run a named statement and return the number of rows that it changed."""
        result = self._connection.execute(statement(name), dict(parameters) or None).fetchall()
        return int(result[0][0]) if result and isinstance(result[0][0], int) else 0

    def rows(self, name: str, /, **parameters: object) -> list[Row]:
        """The result of a named statement, a mapping per row. Times are numbers: DuckDB needs pytz for TIMESTAMPTZ."""
        # Not as an Arrow table, for which DuckDB binds a statement twice: half of the time of small results.
        result = self._connection.execute(statement(name), dict(parameters) or None)
        columns = [column[0] for column in result.description or ()]
        return [dict(zip(columns, values, strict=True)) for values in result.fetchall()]

    def row(self, name: str, /, **parameters: object) -> Row | None:
        """The first row of the result of a named statement, or None."""
        return next(iter(self.rows(name, **parameters)), None)

    def table(self, name: str, /, **parameters: object) -> pa.Table:
        """The result of a named statement as an Arrow table."""
        return self._result(statement(name), parameters)

    def batches(self, name: str, /, **parameters: object) -> pa.RecordBatchReader:
        """The result of a named statement in record batches, which are computed as they are read.

        Read it to the end before the next statement of the session.
        """
        relation = self._connection.sql(statement(name), params=dict(parameters) or None)
        self._readers.append(relation.to_arrow_reader(BATCH_ROWS))
        return self._readers[-1]

    def close(self) -> None:
        """Close results that were not read to the end, as an error leaves them.

        They would keep the catalog open as long as the traceback exists, and DuckDB waits for that when it is opened
        again.
        """
        for reader in self._readers:
            reader.close()

    def sql(self, text: str, parameters: Mapping[str, object] | None = None, *, own: bool = False) -> pa.Table:
        """The result of a statement that a user wrote, or of clipstore's `own` with a user's parameters.

        Raises:
            CatalogError: it is not exactly one statement, it could reach files or the network without permission, or
                DuckDB rejects it.
        """
        try:
            statements = duckdb.extract_statements(text)
            if len(statements) != 1:
                message = "give exactly one SQL statement"
                raise CatalogError(message)
            if self._access is not Access.NETWORK:
                self._check_access(statements[0], own=own)
            return self._result(text, parameters or {})
        except duckdb.Error as error:
            damage = self._file and damage_message(self._file, error)
            message = damage or with_hint(one_line(error), restricted=self._restricted)
            raise CatalogError(message) from error

    def _check_access(self, parsed: duckdb.Statement, *, own: bool) -> None:
        """Reject a statement that could reach what the session's access excludes, in spite of the settings.

        Raises:
            CatalogError: the message names the option that allows it.
        """
        if self._access is Access.NONE and not (self._restricted or own):
            message = (
                f"another connection of this process has the catalog open without limits on files: close it; {ALLOW}"
            )
            raise CatalogError(message)
        try:
            kind = parsed.type.name
        except ValueError:  # a kind that the Python module lacks, such as UPDATE EXTENSIONS
            kind = "OTHER"
        imports = kind == "PRAGMA" and "import" in parsed.query.lower()  # runs the statements of a file
        if kind in _CHANGES_SETTINGS or imports:
            message = (
                f"statements that attach databases, load extensions or change settings are refused; {ALLOW_NETWORK}"
            )
            raise CatalogError(message)
        if self._restricted or self._extensions_checked:
            return
        loaded = self.table("catalog/loaded_extensions").column(0).to_pylist()
        if loaded:
            message = (
                f"another connection of this process has loaded the extensions {', '.join(loaded)} into this database; "
                f"{ALLOW_NETWORK}"
            )
            raise CatalogError(message)
        self._extensions_checked = True

    def _result(self, text: str, parameters: Mapping[str, object]) -> pa.Table:
        relation = self._connection.sql(text, params=dict(parameters) or None)
        return pa.table({}) if relation is None else relation.to_arrow_table()


def parameters_of(text: str) -> set[str]:
    """The $named parameters of a statement."""
    return set().union(*(part.named_parameters for part in duckdb.extract_statements(text)))
