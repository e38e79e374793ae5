"""What the threads of a process share about one catalog file: a lock, and the settings of DuckDB.

The settings of a connection that clipstore did not open are changed while clipstore uses the file, and restored.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import duckdb

from clipstore.catalog.access import Access, MemoryLimit, is_restricted
from clipstore.records import Row
from clipstore.rwlock import ReadWriteLock
from clipstore.statements import statement

# The settings with which DuckDB installs and loads extensions by itself, and the statement that sets each.
_NETWORK_SETTINGS = {"autoinstall": "catalog/set_autoinstall", "autoload": "catalog/set_autoload"}


class ProcessState:
    """The state of one catalog file that the threads of this process share: a lock and the network settings."""

    def __init__(self) -> None:
        self.lock = ReadWriteLock()
        self._mutex = threading.Lock()
        self._offline_connections = 0  # the number of connections without network access
        self._saved_settings: Row = {}  # the settings before the first offline connection

    @staticmethod
    def of(path: Path) -> ProcessState:
        """Returns the state of a file, keyed by the resolved path. A forked process has a separate state."""
        return _STATES.setdefault((os.getpid(), path.resolve()), ProcessState())

    @contextmanager
    def settings(
        self, connection: duckdb.DuckDBPyConnection, access: Access, *, limit: MemoryLimit | None = None
    ) -> Iterator[None]:
        """Apply clipstore's settings to a connection.

        Those of a restricted connection are locked, with a `limit` of memory if it is given. A connection of DuckDB's
        default configuration is kept from installing and loading extensions, without which it opens no network address,
        unless `access` includes that.
        """
        restricted = is_restricted(connection)
        with self._mutex:
            if not (restricted and connection.execute(statement("catalog/is_locked")).fetchall()[0][0]):
                connection.execute(statement("catalog/connection_settings"))
                if restricted and limit:
                    connection.execute(statement("catalog/limit_memory"), {"memory": limit.value})
                    connection.execute(statement("catalog/limit_threads"))
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


_STATES: dict[tuple[int, Path], ProcessState] = {}
