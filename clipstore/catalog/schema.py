"""The schema of a catalog: its format version, the migrations from earlier ones, and the stamp that records both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import duckdb

from clipstore.catalog.session import Session
from clipstore.errors import CatalogError
from clipstore.records import Row
from clipstore.statements import SCHEMA, schema_digest, statement

# By the format version that each leads to, in order.
MIGRATIONS = {2: "schema/migrations/2", 3: "schema/migrations/3", 4: "schema/migrations/4"}
FORMAT_VERSION = max(MIGRATIONS)
_RELEASE = version("clipstore")


def read_stamp(connection: duckdb.DuckDBPyConnection, path: Path) -> Row | None:
    """Returns the row of store_format (version, schema digest, release), or None for an empty database.

    Raises:
        CatalogError: a newer version of clipstore wrote the catalog at `path`.
    """
    try:
        stamp: Row = connection.sql(statement("catalog/format")).to_arrow_table().to_pylist()[0]
    except duckdb.CatalogException:  # an empty database has no such table
        return None
    if stamp["version"] > FORMAT_VERSION:
        release = stamp.get("release")
        remedy = f"clipstore {release} or a later one" if release else "a newer clipstore"
        message = (
            f"the store {path.parent} has format {stamp['version']}, and this clipstore {_RELEASE} reads "
            f"formats up to {FORMAT_VERSION}: install {remedy}"
        )
        raise CatalogError(message)
    return stamp


def is_current(stamp: Row) -> bool:
    """Whether this version's migrations and schema statements have run."""
    return stamp["version"] == FORMAT_VERSION and stamp.get("schema_digest") == schema_digest()


def migrate(connection: duckdb.DuckDBPyConnection, stamp: Row | None) -> None:
    """Create the schema (`stamp` None: the database is empty), or bring that of an earlier version up to date.

    Runs within the transaction of the caller: a catalog is upgraded completely or not at all.
    """
    if stamp and is_current(stamp):
        return
    for format_version, name in MIGRATIONS.items():
        if stamp and stamp["version"] < format_version:
            connection.execute(statement(name))
    _create_schema(connection)
    connection.execute(statement("catalog/delete_stamp"))
    new_stamp = {"version": FORMAT_VERSION, "digest": schema_digest(), "release": _RELEASE}
    connection.execute(statement("catalog/stamp"), new_stamp)


def _create_schema(connection: duckdb.DuckDBPyConnection, schema: Sequence[str] = SCHEMA) -> None:
    for name in schema:
        connection.execute(statement(name))


@contextmanager
def scratch(schema: Sequence[str] = SCHEMA) -> Iterator[Session]:
    """An empty catalog in memory, for results that are not stored, with the whole SCHEMA or the part that they need."""
    connection = duckdb.connect(":memory:")
    try:
        _create_schema(connection, schema)
        yield Session(connection)
    finally:
        connection.close()
