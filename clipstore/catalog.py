"""The catalog: a DuckDB file, opened late and closed early, that runs the named statements of `sql/`.

Python names a statement and never builds one. One process may write, or many may read: an open that finds the file
taken waits a little and then says which process holds it. Threads of one process wait for one another alike, and share
the file where DuckDB lets them (see `rwlock`), also with connections that the process has made without clipstore.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

from clipstore.errors import CatalogError, NotFoundError
from clipstore.records import Row
from clipstore.resources import folder
from clipstore.rwlock import Holder, ReadWriteLock
from clipstore.waiting import Wait

FORMAT_VERSION = 2  # the last migration of sql/schema/migrations.sql
BUSY_SECONDS = 10.0

# What makes a catalog, each after what it reads.
_SCHEMA = (
    "schema/tables",
    "schema/macros",
    "schema/words",
    "views/items",
    "views/evaluations",
    "views/query_ranks",
    "views/query_metrics",
    "views/metrics",
    "views/hubness",
    "views/caption_facts",
    "views/failed_queries",
    "views/failure_kinds",
    "views/retrieval_failures",
)

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_ALLOW = "--allow-network (in Python allow_network=True) permits extensions and network addresses"
_CAN_REACH_NETWORK = {"ATTACH", "LOAD", "SET", "OTHER"}
_CONFLICT = "with a different configuration"  # DuckDB's words for a file that this process has open in another way
_THREAD = "in use by another thread of this process: wait for it to end"


@cache
def statement(name: str) -> str:
    """The text of the statement "GROUP/NAME": the file `sql/GROUP/NAME.sql`, or what follows `-- name: NAME` in
    `sql/GROUP.sql`.
    """
    group, _, own = name.rpartition("/")
    if (folder("sql") / group).is_dir():
        return (folder("sql") / f"{name}.sql").read_text(encoding="utf-8")
    return _statements(group)[own]


def named(group: str) -> list[str]:
    """The names of the statements of a group, sorted, as `statement` takes them."""
    directory = folder("sql") / group
    names = [path.stem for path in directory.glob("*.sql")] if directory.is_dir() else _statements(group)
    return sorted(f"{group}/{name}" for name in names)


@cache
def _statements(group: str) -> dict[str, str]:
    """The statements of `sql/GROUP.sql` by name."""
    _, *parts = _NAME.split((folder("sql") / f"{group}.sql").read_text(encoding="utf-8"))
    return {name: text.strip() + "\n" for name, text in zip(parts[::2], parts[1::2], strict=True)}


class Session:
    """An open catalog. Use it within `Catalog.read` or `Catalog.write` alone."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, allow_network: bool = False) -> None:
        self._connection, self._allow_network = connection, allow_network
        self._offline = False  # whether the extensions that are loaded were looked at

    def stage(self, **tables: pa.Table) -> None:
        """Make Arrow tables visible to statements under their names, until the session ends."""
        for name, table in tables.items():
            self._connection.register(name, table)

    def run(self, name: str, /, **parameters: object) -> int:
        """Run a named statement; the number of rows that it changed."""
        answer = self._connection.execute(statement(name), dict(parameters) or None).fetchall()
        return int(answer[0][0]) if answer and isinstance(answer[0][0], int) else 0

    def rows(self, name: str, /, **parameters: object) -> list[Row]:
        """The result of a named statement, a mapping per row."""
        return list(self.table(name, **parameters).to_pylist())

    def row(self, name: str, /, **parameters: object) -> Row | None:
        """The first row of the result of a named statement, or None."""
        return next(iter(self.rows(name, **parameters)), None)

    def table(self, name: str, /, **parameters: object) -> pa.Table:
        """The result of a named statement as an Arrow table."""
        return self._answer(statement(name), parameters)

    def ask(self, text: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
        """The answer of a user's own statement.

        Raises:
            CatalogError: it is not one statement, could reach the network and may not, or DuckDB refuses it.
        """
        try:
            statements = duckdb.extract_statements(text)
            if len(statements) != 1:
                message = "give exactly one SQL statement"
                raise CatalogError(message)
            if not self._allow_network:
                self._check_offline(statements[0])
            return self._answer(text, parameters or {})
        except duckdb.Error as error:
            raise CatalogError(_without_network(error)) from error

    def _check_offline(self, parsed: duckdb.Statement) -> None:
        """Refuse what could load an extension or open a network address in spite of the settings.

        Raises:
            CatalogError: with the way to allow it.
        """
        try:
            kind = parsed.type.name
        except ValueError:  # a kind that the Python module does not know, such as UPDATE EXTENSIONS
            kind = "OTHER"
        imports = kind == "PRAGMA" and "import" in parsed.query.lower()  # runs the statements of a file
        if kind in _CAN_REACH_NETWORK or imports:
            message = f"statements that attach databases, load extensions or change settings are refused; {_ALLOW}"
            raise CatalogError(message)
        if self._offline:
            return
        loaded = self.table("catalog/loaded_extensions").column(0).to_pylist()
        if loaded:
            message = f"another connection of this process has loaded {', '.join(loaded)} here; {_ALLOW}"
            raise CatalogError(message)
        self._offline = True

    def _answer(self, text: str, parameters: Mapping[str, object]) -> pa.Table:
        relation = self._connection.sql(text, params=dict(parameters) or None)
        return pa.table({}) if relation is None else relation.to_arrow_table()


def parameters_of(text: str) -> set[str]:
    """The $named parameters of a statement."""
    return set().union(*(part.named_parameters for part in duckdb.extract_statements(text)))


class _Process:
    """What this process has open of one catalog file: the lock of its threads, and what its statements may reach."""

    def __init__(self) -> None:
        self.lock = ReadWriteLock()
        self._mutex = threading.Lock()
        self._offline = 0  # connections that may not reach the network
        self._before: Row = {}

    @staticmethod
    def of(path: Path) -> _Process:
        """That of a file, by whatever name; a forked process begins anew."""
        return _PROCESSES.setdefault((os.getpid(), path.resolve()), _Process())

    @contextmanager
    def offline(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Keep DuckDB from installing or loading extensions, without which it opens no network address.

        The settings belong to all connections of the process to this file: the last one restores them, for connections
        that were made without clipstore.
        """
        with self._mutex:
            if not self._offline:
                self._before = connection.sql(statement("catalog/network_settings")).to_arrow_table().to_pylist()[0]
            self._offline += 1
            for name in self._before:
                connection.execute(statement(f"catalog/set_{name}"), {"value": False})
        try:
            yield
        finally:
            with self._mutex:
                self._offline -= 1
                if not self._offline:
                    with suppress(duckdb.Error):  # a database that broke has no settings to restore
                        for name, value in self._before.items():
                            connection.execute(statement(f"catalog/set_{name}"), {"value": value})


_PROCESSES: dict[tuple[int, Path], _Process] = {}


@dataclass(frozen=True)
class Catalog:
    """The catalog of one store.

    Raises (from `read`, `write` and `check_writable`):
        NotFoundError: there is no catalog at this place yet.
        CatalogError: it is damaged, made by a newer clipstore, or held for too long by another process, another thread,
            or a connection of this process that cannot be shared.
    """

    path: Path

    @contextmanager
    def read(self, *, allow_network: bool = False) -> Iterator[Session]:
        """Open for reading alone; many processes may at once. A catalog of another version is brought up to date.

        With `allow_network`, statements may install extensions and open network addresses.
        """
        if not self.path.exists():
            raise NotFoundError(self._no_store())
        with self._open(read_only=True, allow_network=allow_network) as connection:
            told = self._format(connection)
            if told is None:  # a first ingest that failed leaves a catalog without tables
                raise NotFoundError(self._no_store())
            if told.get("schema_digest") == _schema_digest():
                yield Session(connection, allow_network=allow_network)
                return
        with self.write():
            pass  # its tables and views are made
        with self._open(read_only=True, allow_network=allow_network) as connection:
            yield Session(connection, allow_network=allow_network)

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
            connection.begin()
            _bring_up_to_date(connection, self._format(connection))
            try:
                yield Session(connection)
            except BaseException:
                connection.rollback()
                raise
            if keep:
                connection.commit()
            else:
                connection.rollback()

    def check_writable(self) -> None:
        """See that the catalog can be written now, before long work whose result is to go there."""
        with self.write(keep=False):
            pass

    def _no_store(self) -> str:
        return f"no store at {self.path.parent}: begin with 'clipstore ingest', or name another with --store"

    @contextmanager
    def _open(self, *, read_only: bool, allow_network: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        process, wait = _Process.of(self.path), Wait(f"the catalog {self.path}", BUSY_SECONDS)
        # A statement that may reach the network is alone in the process: the settings are those of all connections.
        alone = not read_only or allow_network
        turn = process.lock.writing(lambda: wait(_THREAD)) if alone else process.lock.reading()
        with turn as holder:
            connection = self._connect(process.lock, holder, wait, read_only=read_only)
            try:
                connection.execute(statement("catalog/no_python_variables"))
                if allow_network:
                    yield connection
                else:
                    with process.offline(connection):
                        yield connection
            except duckdb.Error as error:  # a full disk, most of all
                message = f"the catalog {self.path} cannot go on: {_one_line(error)}"
                raise CatalogError(message) from error
            finally:
                connection.close()

    def _connect(
        self, lock: ReadWriteLock, holder: Holder, wait: Wait, *, read_only: bool
    ) -> duckdb.DuckDBPyConnection:
        """Connect, waiting while another process, or a connection of this one that cannot be shared, has the file."""
        while True:
            try:
                connection = duckdb.connect(str(self.path), read_only=read_only)
            except duckdb.Error as error:
                failure: duckdb.Error = error
            else:
                if not read_only:
                    holder.opened_read_write()
                return connection
            if read_only and _CONFLICT in str(failure):  # the file is open read-write: share that, and write nothing
                try:
                    connection = duckdb.connect(str(self.path))
                except duckdb.Error as error:
                    failure = error
                else:
                    holder.opened_read_write()
                    connection.execute(statement("catalog/begin_read_only"))
                    return connection
            wait(self._held_by(failure, lock, read_only=read_only), failure)
            time.sleep(0.05)

    def _held_by(self, error: duckdb.Error, lock: ReadWriteLock, *, read_only: bool) -> str:
        """Who has the file, and what to do about it; an error that means something else is raised."""
        told = str(error)
        if "Could not set lock" in told:
            process = re.search(r"held in (.*?) \(PID (\d+)\)", told)
            who = f"process {process[2]} ({process[1]})" if process else "another process"
            return f"held by {who}: wait for it to end, or stop it"
        if _CONFLICT in told:
            if lock.read_apart and not read_only:
                return _THREAD
            if read_only:
                return "open in this process with its own configuration: close that connection, or open it without"
            return (
                "open in this process by another connection, read-only or with its own configuration: close that "
                "connection, or open it by duckdb.connect(path) without read_only and config"
            )
        if "already attached" in told:
            return "attached by another connection of this process: detach it there, or close that connection"
        message = f"cannot open the catalog {self.path}: {_one_line(error)}"
        raise CatalogError(message) from error

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


def _bring_up_to_date(connection: duckdb.DuckDBPyConnection, stamp: Row | None) -> None:
    """Migrate a catalog made by an earlier version (`stamp` None: a new one), and make what this version adds."""
    digest = _schema_digest()
    if stamp and stamp.get("schema_digest") == digest:
        return
    if stamp:
        for version in range(stamp["version"] + 1, FORMAT_VERSION + 1):
            connection.execute(statement(f"schema/migrations/{version}"))
    _make_schema(connection)
    connection.execute(statement("catalog/delete_stamp"))
    connection.execute(statement("catalog/stamp"), {"version": FORMAT_VERSION, "digest": digest})


def _make_schema(connection: duckdb.DuckDBPyConnection) -> None:
    for name in _SCHEMA:
        connection.execute(statement(name))


@cache
def _schema_digest() -> str:
    """What the statements that make a catalog are, in one word: one that they made already is not made again."""
    return hashlib.sha256("".join(map(statement, _SCHEMA)).encode()).hexdigest()


def _one_line(error: Exception) -> str:
    """A message of DuckDB with its hints in one line, without the excerpt of the statement."""
    excerpt = re.compile(r"^LINE \d+:.*\n?.*\^*\s*$", re.MULTILINE)
    return " ".join(excerpt.sub("", str(error)).split())


def _without_network(error: duckdb.Error) -> str:
    """What DuckDB says of a user's statement; where it wants an extension, how that is allowed."""
    told = _one_line(error)
    wanted = re.match(r"(.*?)\W*(Please try installing|Install it first)", told)
    return f"{wanted[1]}; {_ALLOW}" if wanted else told
