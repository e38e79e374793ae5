"""Opening the file of a catalog: waiting while another process has it open, and sharing it within this process."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import duckdb

from clipstore.catalog.access import RESTRICTED, Access, MemoryLimit
from clipstore.catalog.damage import damage_message, failure, one_line
from clipstore.catalog.files import check_header, has_header_size
from clipstore.catalog.process_state import ProcessState
from clipstore.errors import CatalogError
from clipstore.rwlock import Holder, ReadWriteLock
from clipstore.statements import statement
from clipstore.waiting import BusyWait

_POLL_SECONDS = 0.05  # between two attempts to open a file
_CONFLICT = "with a different configuration"  # DuckDB's message for a file that is open in another mode
_HELD_BY_THREAD = "in use by another thread of this process: wait for it to end"


@contextmanager
def open_connection(
    path: Path,
    *,
    read_only: bool,
    access: Access = Access.NONE,
    file: Path | None = None,
    limit: MemoryLimit | None = None,
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to the catalog at `path`, or to the temporary `file` in which it is created, for one block.

    `limit` is the memory of DuckDB (None: what it takes by default).

    Raises:
        CatalogError: the file is damaged, or busy for too long. Also raised for errors of DuckDB in the block.
    """
    state, wait = ProcessState.of(path), BusyWait(f"the catalog {path}")
    # A statement that may reach files or the network runs alone in the process: its configuration is the file's.
    exclusive = not read_only or access is not Access.NONE
    with state.lock.writing(lambda: wait(_HELD_BY_THREAD)) if exclusive else state.lock.reading() as holder:
        opening = _Opening(path=path, file=file or path, lock=state.lock, read_only=read_only, access=access)
        try:
            with (
                closing(opening.connect(holder, wait)) as connection,
                state.settings(connection, access, limit=limit),
            ):
                yield connection
        except duckdb.Error as error:
            raise failure(path, error) from error


@dataclass(frozen=True, kw_only=True)
class _Opening:
    """How one block opens a catalog.

    Attributes:
        path: the catalog, which messages name.
        file: the file to open: the catalog, or the temporary file in which it is created.
        lock: the lock with which the threads of this process share the catalog.
        read_only: whether the block only reads.
        access: what its statements may reach.
    """

    path: Path
    file: Path
    lock: ReadWriteLock
    read_only: bool
    access: Access

    def connect(self, holder: Holder, wait: BusyWait) -> duckdb.DuckDBPyConnection:
        """Connect. Wait while another process, or an unshareable connection of this process, has the file open."""
        if self.file.exists():
            # With access to the network, DuckDB would install an extension for a file of another kind.
            _check_file(self.file, header=self.access is Access.NETWORK)
        while True:
            try:
                connection, read_only = self._attempt()
            except duckdb.Error as error:
                wait(self._holder_of_file(error), error)
                time.sleep(_POLL_SECONDS)
            else:
                if not read_only:
                    holder.opened_read_write()
                if read_only != self.read_only:
                    connection.execute(statement("catalog/begin_read_only"))
                return connection

    def _attempt(self) -> tuple[duckdb.DuckDBPyConnection, bool]:
        """Connect now. Returns the connection, and whether DuckDB opened the file read-only.

        A file that this process has open is shared in its mode and configuration: restricted, or DuckDB's default.

        Raises:
            duckdb.Error: the file cannot be opened, or shared in any of them.
        """
        configurations = [RESTRICTED, {}] if self.access is Access.NONE else [{}]
        for config, read_only in product(configurations, [True, False] if self.read_only else [False]):
            try:
                return duckdb.connect(str(self.file), read_only=read_only, config=config), read_only
            except duckdb.Error as error:
                if _CONFLICT not in str(error):
                    raise
                conflict = error
        raise conflict

    def _holder_of_file(self, error: duckdb.Error) -> str:
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
            if self.lock.has_read_only_reader and not self.read_only:
                return _HELD_BY_THREAD
            if self.read_only:
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
        _check_file(self.path, header=True)
        message = damage_message(self.path, error) or f"cannot open the catalog {self.path}: {one_line(error)}"
        raise CatalogError(message) from error


def _check_file(file: Path, *, header: bool) -> None:
    """Refuse a file that is not a complete DuckDB file; without `header`, as far as its kind and size tell.

    To close a file drops the process's locks on it, so it is not opened where a connection may have it open.
    """
    try:
        if header or not has_header_size(file):
            check_header(file)
    except OSError as error:
        message = f"cannot open the catalog {file}: {error.strerror}"
        raise CatalogError(message) from error
