"""The catalog: a DuckDB file, opened late and closed early, on which the named statements of `sql/` run.

DuckDB allows one writing process or many readers. If the file is locked, opening waits, then fails with the holder's
process id. Threads of one process wait for one another in the same way, and share the file where DuckDB allows it (see
`rwlock`), also with connections that the process made without clipstore.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import duckdb
import pyarrow as pa

from clipstore.catalog_files import (
    REBUILD,
    check_header,
    has_header_size,
    new_catalog_file,
    replaced_catalog_file,
)
from clipstore.errors import CatalogError, NotFoundError
from clipstore.network import check_online
from clipstore.records import Row
from clipstore.rwlock import Holder, ReadWriteLock
from clipstore.statements import SCHEMA, schema_digest, statement
from clipstore.waiting import BusyWait

BUSY_TIMEOUT_SECONDS = 10.0

MIGRATIONS = {2: "schema/migrations/2", 3: "schema/migrations/3"}  # by the format version that each leads to, in order
FORMAT_VERSION = max(MIGRATIONS)
_RELEASE = version("clipstore")

# The settings with which DuckDB installs and loads extensions by itself, and the statement that sets each.
_NETWORK_SETTINGS = {"autoinstall": "catalog/set_autoinstall", "autoload": "catalog/set_autoload"}

# The configuration of a connection whose statements reach neither files nor the network, except the catalog itself.
_RESTRICTED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}

_ALLOW_NETWORK = "--allow-network (in Python allow_network=True) permits extensions and network addresses"
_ALLOW = f"--allow-files (in Python allow_files=True) permits local files, {_ALLOW_NETWORK}"
_CHANGES_SETTINGS = {"ATTACH", "LOAD", "SET", "OTHER"}  # kinds of statements
_DISABLED = re.compile(r"disabled (by|through) configuration|configuration has been locked")
_NO_SUCH_FILE = re.compile(
    r"Table with name \S*[/\\.:*]\S* does not exist!"
)  # a path or an address in place of a table
_CONFLICT = "with a different configuration"  # DuckDB's message for a file that is open in another mode
_HELD_BY_THREAD = "in use by another thread of this process: wait for it to end"

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


class Access(Enum):
    """What the statements of a session may reach beside the catalog; each includes those before it.

    Attributes:
        NONE: no files and no network.
        FILES: local files.
        NETWORK: extensions of DuckDB and network addresses.
    """

    NONE = 0
    FILES = 1
    NETWORK = 2

    @classmethod
    def of(cls, *, allow_files: bool, allow_network: bool) -> Access:
        """The access that two options allow.

        Raises:
            OfflineError: the network is allowed by the option, and forbidden for the whole process.
        """
        if allow_network:
            check_online("--allow-network")
            return cls.NETWORK
        return cls.FILES if allow_files else cls.NONE


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

    def stage(self, **tables: pa.Table) -> None:
        """Make Arrow tables visible to statements under their names, until the session ends."""
        for name, table in tables.items():
            self._connection.register(name, table)

    def run(self, name: str, /, **parameters: object) -> int:
        """Run a named statement and return the number of rows that it changed."""
        result = self._connection.execute(statement(name), dict(parameters) or None).fetchall()
        return int(result[0][0]) if result and isinstance(result[0][0], int) else 0

    def rows(self, name: str, /, **parameters: object) -> list[Row]:
        """The result of a named statement, a mapping per row."""
        return list(self.table(name, **parameters).to_pylist())

    def row(self, name: str, /, **parameters: object) -> Row | None:
        """The first row of the result of a named statement, or None."""
        return next(iter(self.rows(name, **parameters)), None)

    def table(self, name: str, /, **parameters: object) -> pa.Table:
        """The result of a named statement as an Arrow table."""
        return self._result(statement(name), parameters)

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
            damage = self._file and _damage(self._file, error)
            raise CatalogError(damage or self._with_hint(error)) from error

    def _check_access(self, parsed: duckdb.Statement, *, own: bool) -> None:
        """Reject a statement that could reach what the session's access excludes, in spite of the settings.

        Raises:
            CatalogError: the message names the option that allows it.
        """
        if self._access is Access.NONE and not (self._restricted or own):
            message = (
                f"another connection of this process has the catalog open without limits on files: close it; {_ALLOW}"
            )
            raise CatalogError(message)
        try:
            kind = parsed.type.name
        except ValueError:  # a kind that the Python module lacks, such as UPDATE EXTENSIONS
            kind = "OTHER"
        imports = kind == "PRAGMA" and "import" in parsed.query.lower()  # runs the statements of a file
        if kind in _CHANGES_SETTINGS or imports:
            message = (
                f"statements that attach databases, load extensions or change settings are refused; {_ALLOW_NETWORK}"
            )
            raise CatalogError(message)
        if self._restricted or self._extensions_checked:
            return
        loaded = self.table("catalog/loaded_extensions").column(0).to_pylist()
        if loaded:
            message = (
                f"another connection of this process has loaded the extensions {', '.join(loaded)} into this database; "
                f"{_ALLOW_NETWORK}"
            )
            raise CatalogError(message)
        self._extensions_checked = True

    def _with_hint(self, error: duckdb.Error) -> str:
        """The message for a failed statement of a user, with the option that allows it where access is the cause."""
        text = _one_line(error)
        needs_extension = re.match(r"(.*?)\W*(Please try installing|Install it first)", text)
        if needs_extension:
            return f"{needs_extension[1]}; {_ALLOW_NETWORK}"
        if self._restricted and (_DISABLED.search(text) or _NO_SUCH_FILE.search(text)):
            return f"{text}; {_ALLOW}"
        return text

    def _result(self, text: str, parameters: Mapping[str, object]) -> pa.Table:
        relation = self._connection.sql(text, params=dict(parameters) or None)
        return pa.table({}) if relation is None else relation.to_arrow_table()


def parameters_of(text: str) -> set[str]:
    """The $named parameters of a statement."""
    return set().union(*(part.named_parameters for part in duckdb.extract_statements(text)))


class _ProcessState:
    """The state of one catalog file that the threads of this process share: a lock and the network settings."""

    def __init__(self) -> None:
        self.lock = ReadWriteLock()
        self._mutex = threading.Lock()
        self._offline_connections = 0  # the number of connections without network access
        self._saved_settings: Row = {}  # the settings before the first offline connection

    @staticmethod
    def of(path: Path) -> _ProcessState:
        """Returns the state of a file, keyed by the resolved path. A forked process has a separate state."""
        return _STATES.setdefault((os.getpid(), path.resolve()), _ProcessState())

    @contextmanager
    def settings(self, connection: duckdb.DuckDBPyConnection, access: Access) -> Iterator[None]:
        """Apply clipstore's settings to a connection.

        Those of a restricted connection are locked. A connection of DuckDB's default configuration is kept from
        installing and loading extensions, without which it opens no network address, unless `access` includes that.
        """
        restricted = _is_restricted(connection)
        with self._mutex:
            if not (restricted and connection.sql(statement("catalog/is_locked")).fetchall()[0][0]):
                connection.execute(statement("catalog/connection_settings"))
                if restricted:
                    connection.execute(statement("catalog/lock_settings"))
        with nullcontext() if restricted or access is Access.NETWORK else self._offline(connection):
            yield

    @contextmanager
    def _offline(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Keep DuckDB from installing or loading extensions.

        The settings apply to all connections of the process to this file. The last connection restores them, for
        connections that were made without clipstore.
        """
        with self._mutex:
            if not self._offline_connections:
                settings = connection.sql(statement("catalog/network_settings")).to_arrow_table()
                self._saved_settings = settings.to_pylist()[0]
            self._offline_connections += 1
            for name in _NETWORK_SETTINGS.values():
                connection.execute(statement(name), {"value": False})
        try:
            yield
        finally:
            with self._mutex:
                self._offline_connections -= 1
                if not self._offline_connections:
                    with suppress(duckdb.Error):  # a database that failed has no settings to restore
                        for setting, name in _NETWORK_SETTINGS.items():
                            connection.execute(statement(name), {"value": self._saved_settings[setting]})


_STATES: dict[tuple[int, Path], _ProcessState] = {}


@dataclass(frozen=True)
class Catalog:
    """The catalog of one store.

    Raises (from `read`, `write` and `check_writable`):
        NotFoundError: there is no catalog at this path yet.
        CatalogError: it is damaged, was written by a newer version of clipstore, or is locked for too long
            by another process, another thread, or a connection of this process that cannot be shared.
    """

    path: Path

    @contextmanager
    def read(self, *, access: Access = Access.NONE) -> Iterator[Session]:
        """Open read-only, as many processes may at once. A catalog of an earlier version is upgraded first.

        Statements reach no file beside the catalog and no network address unless `access` says so.
        """
        if not self.path.exists():
            raise NotFoundError(self._no_store())
        with self._open(read_only=True, access=access) as connection:
            stamp = self._stamp(connection)
            if stamp is None:  # in earlier versions, a first ingest that failed left a catalog without tables
                raise NotFoundError(self._no_store())
            if _is_current(stamp):
                yield Session(connection, access, file=self.path, restricted=_is_restricted(connection))
                return
        self._upgrade()
        with self._open(read_only=True, access=access) as connection:
            yield Session(connection, access, file=self.path, restricted=_is_restricted(connection))

    @contextmanager
    def write(self, *, create: bool = False, commit: bool = True) -> Iterator[Session]:
        """Open for writing, in one transaction: it is committed when the block ends, and rolled back on an error.

        With `create`, a store that does not exist is created: its catalog gets its name when the block has ended, so
        that it is complete. Without `commit`, the transaction is rolled back in any case: a dry run.
        """
        exists = self.path.exists()
        if not (create or exists):
            raise NotFoundError(self._no_store())
        target = nullcontext(self.path) if exists else new_catalog_file(self.path, BUSY_TIMEOUT_SECONDS)
        with target as file, self._transaction(file, commit=commit) as session:
            yield session

    @contextmanager
    def replacement(self) -> Iterator[Session]:
        """A session in an empty catalog, which replaces this one when the block ends; the former file is kept.

        It becomes catalog.duckdb.damaged-N. If the block fails, nothing changes.
        """
        with replaced_catalog_file(self.path, BUSY_TIMEOUT_SECONDS) as file, self._transaction(file) as session:
            yield session

    def check_writable(self) -> None:
        """Check that the catalog can be written now, before long work whose result it will store."""
        with self.write(commit=False):
            pass

    @contextmanager
    def _transaction(self, file: Path, *, commit: bool = True) -> Iterator[Session]:
        """A session that writes the catalog, or the temporary `file` in which it is created."""
        with self._open(read_only=False, file=file) as connection:
            connection.begin()
            _migrate(connection, self._stamp(connection))
            try:
                yield Session(connection, file=self.path, is_new=file != self.path)
            except BaseException:
                connection.rollback()
                raise
            if commit:
                connection.commit()
            else:
                connection.rollback()
            if file != self.path:  # so that the renamed file has no log
                connection.execute(statement("catalog/checkpoint"))

    def _upgrade(self) -> None:
        try:
            with self.write():
                pass
        except CatalogError as error:
            message = f"a catalog of another version is upgraded when it is opened, which needs write access: {error}"
            raise CatalogError(message) from error

    def _no_store(self) -> str:
        folder = self.path.parent
        if (folder / "records").is_dir() or (folder / "shards").is_dir():
            return (
                f"the store {folder} has no catalog: 'clipstore catalog rebuild' makes it again; without its records, "
                "ingest, embed and eval do, and use the stored vectors"
            )
        return f"no store at {folder}: start with 'clipstore ingest', or name another store with --store"

    @contextmanager
    def _open(
        self, *, read_only: bool, access: Access = Access.NONE, file: Path | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog, or the `file` in which it is created; errors of DuckDB become a CatalogError."""
        state, wait = _ProcessState.of(self.path), BusyWait(f"the catalog {self.path}", BUSY_TIMEOUT_SECONDS)
        # A statement that may reach files or the network runs alone in the process: its configuration is the file's.
        exclusive = not read_only or access is not Access.NONE
        with state.lock.writing(lambda: wait(_HELD_BY_THREAD)) if exclusive else state.lock.reading() as holder:
            connect = partial(self._connect, file or self.path, state.lock, holder, wait)
            try:
                with (
                    closing(connect(read_only=read_only, access=access)) as connection,
                    state.settings(connection, access),
                ):
                    yield connection
            except duckdb.Error as error:
                raise self._failure(error) from error

    def _failure(self, error: duckdb.Error) -> CatalogError:
        """The error for a failed statement of clipstore: a damaged file, a full disk, or a fault of DuckDB."""
        damage = _damage(self.path, error)
        if damage is None:
            damage = f"error in the catalog {self.path}: {_one_line(error)}"
            if not isinstance(error, _OTHER_CAUSES):  # our statements are valid in an undamaged catalog
                damage += f"; if it comes again, the file may be damaged: {REBUILD}"
        return CatalogError(damage)

    def _connect(
        self, file: Path, lock: ReadWriteLock, holder: Holder, wait: BusyWait, *, read_only: bool, access: Access
    ) -> duckdb.DuckDBPyConnection:
        """Connect. Wait while another process, or an unshareable connection of this process, has the file open.

        A file that this process has open is shared in its mode and configuration: restricted, or DuckDB's default.
        """
        if file.exists():
            self._check_file(file, header=access is Access.NETWORK)  # otherwise DuckDB installs no extension for it
        modes = list(
            product([_RESTRICTED, {}] if access is Access.NONE else [{}], [True, False] if read_only else [False])
        )
        while True:
            for config, mode in modes:
                try:
                    connection = duckdb.connect(str(file), read_only=mode, config=config)
                except duckdb.Error as error:
                    failure: duckdb.Error = error
                    if _CONFLICT not in str(error):
                        break
                    continue
                if not mode:
                    holder.opened_read_write()
                if mode != read_only:
                    connection.execute(statement("catalog/begin_read_only"))
                return connection
            wait(self._holder_of_file(failure, lock, read_only=read_only), failure)
            time.sleep(0.05)

    def _check_file(self, file: Path, *, header: bool) -> None:
        """Refuse a file that is not a complete DuckDB file; without `header`, as far as its kind and size tell.

        To close a file drops the process's locks on it, so it is not opened where a connection may have it open.
        """
        try:
            if header or not has_header_size(file):
                check_header(file)
        except OSError as error:
            message = f"cannot open the catalog {file}: {error.strerror}"
            raise CatalogError(message) from error

    def _holder_of_file(self, error: duckdb.Error, lock: ReadWriteLock, *, read_only: bool) -> str:
        """Describes what has the file open, and what to do about it.

        Raises:
            CatalogError: the error has another cause.
        """
        text = str(error)
        if "Could not set lock" in text:
            process = re.search(r"held in (.*?) \(PID (\d+)\)", text)
            name = f"process {process[2]} ({process[1]})" if process else "another process"
            return f"held by {name}: wait for it to end, or stop it"
        if _CONFLICT in text:
            if lock.has_read_only_reader and not read_only:
                return _HELD_BY_THREAD
            if read_only:
                return (
                    "open in this process with its own configuration: close that connection, or open it with the "
                    "default configuration"
                )
            return (
                "open in this process by another connection, read-only or with its own configuration: close that "
                "connection, or open it with duckdb.connect(path), without read_only and config"
            )
        if "already attached" in text:
            return "attached by another connection of this process: detach it there, or close that connection"
        self._check_file(self.path, header=True)
        message = _damage(self.path, error) or f"cannot open the catalog {self.path}: {_one_line(error)}"
        raise CatalogError(message) from error

    def _stamp(self, connection: duckdb.DuckDBPyConnection) -> Row | None:
        """Returns the row of store_format (version, schema digest, release), or None for an empty database.

        Raises:
            CatalogError: a newer version of clipstore wrote the catalog.
        """
        try:
            stamp: Row = connection.sql(statement("catalog/format")).to_arrow_table().to_pylist()[0]
        except duckdb.CatalogException:  # an empty database has no such table
            return None
        if stamp["version"] > FORMAT_VERSION:
            release = stamp.get("release")
            remedy = f"clipstore {release} or a later one" if release else "a newer clipstore"
            message = (
                f"the store {self.path.parent} has format {stamp['version']}, and this clipstore {_RELEASE} reads "
                f"formats up to {FORMAT_VERSION}: install {remedy}"
            )
            raise CatalogError(message)
        return stamp


@contextmanager
def scratch(schema: Sequence[str] = SCHEMA) -> Iterator[Session]:
    """An empty catalog in memory, for results that are not stored, with the whole SCHEMA or the part that they need."""
    connection = duckdb.connect(":memory:")
    try:
        _create_schema(connection, schema)
        yield Session(connection)
    finally:
        connection.close()


def _is_restricted(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether a connection's configuration keeps its statements from files and the network."""
    return not connection.sql(statement("catalog/external_access")).fetchall()[0][0]


def _is_current(stamp: Row) -> bool:
    """Whether this version's migrations and schema statements have run."""
    return stamp["version"] == FORMAT_VERSION and stamp.get("schema_digest") == schema_digest()


def _migrate(connection: duckdb.DuckDBPyConnection, stamp: Row | None) -> None:
    """Create the schema (`stamp` None: the database is empty), or bring that of an earlier version up to date.

    Runs within the transaction of the caller: a catalog is upgraded completely or not at all.
    """
    if stamp and _is_current(stamp):
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


def _damage(file: Path, error: duckdb.Error) -> str | None:
    """The message for an error of DuckDB that means that the file is damaged, else None."""
    text = str(error)
    short = _SHORT_FILE in text and str(file) in text
    if short or any(sign in text for sign in _DAMAGE):
        return f"the catalog {file} is damaged ({_one_line(error)}): {REBUILD}"
    if isinstance(error, _DAMAGE_KINDS):
        reason = f"DuckDB failed on the catalog {file} ({_one_line(error)})"
        return f"{reason}; if it comes again, the file is damaged: {REBUILD}"
    return None


def _one_line(error: Exception) -> str:
    """A message of DuckDB with its hints in one line, without the excerpt of the statement."""
    excerpt = re.compile(r"^LINE \d+:.*\n?.*\^*\s*$", re.MULTILINE)
    return " ".join(excerpt.sub("", str(error)).split())
