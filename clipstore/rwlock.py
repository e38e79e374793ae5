"""The lock with which threads of one process share a database file.

DuckDB opens a file once per process, either read-only or read-write; later connections share that. So readers share
with readers, and a writer waits for them. Readers that start while a writer has the file open share its connection, on
which they see what was committed before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipstore.errors import CatalogError

_POLL_SECONDS = 0.05  # between two checks of a waiting writer
_READER_SECONDS = 1.0  # for which a new reader waits for a waiting writer, or for a read-write file to be closed


class Holder:
    """One reader or writer that holds the lock."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock
        self.read_write = False  # whether its connection is a read-write one

    def opened_read_write(self) -> None:
        """Record that the connection is read-write, so that a reader does not block a writer."""
        with self._lock.changed:
            self.read_write = True
            self._lock.changed.notify_all()


class ReadWriteLock:
    """Many readers, or one writer with readers that share its open file. Re-entrant only for reads within reads.

    Raises (from `reading` and `writing`):
        CatalogError: this thread holds the lock in a conflicting mode and would wait for itself.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._readers: list[Holder] = []
        self._threads: Counter[int] = Counter()  # reads by thread
        self._writer: Holder | None = None
        self._writing_thread: int | None = None
        self._waiting = 0  # writers

    @contextmanager
    def reading(self) -> Iterator[Holder]:
        """Hold the lock for reading. The wait is bounded, and a reader never fails because of another thread."""
        thread, holder = threading.get_ident(), Holder(self)
        with self.changed:
            if self._writing_thread == thread:
                message = "the catalog cannot be read while this thread writes it: read it after the write ends"
                raise CatalogError(message)
            if not self._threads[thread]:
                self.changed.wait_for(self._admits_readers, _READER_SECONDS)
            self._threads[thread] += 1
            self._readers.append(holder)
        try:
            yield holder
        finally:
            with self.changed:
                self._readers.remove(holder)
                self._threads[thread] -= 1
                self.changed.notify_all()

    @contextmanager
    def writing(self, on_wait: Callable[[], None]) -> Iterator[Holder]:
        """Hold the lock for writing. While others hold it, `on_wait` is called repeatedly; it may raise."""
        thread = threading.get_ident()
        with self.changed:
            if self._writing_thread == thread or self._threads[thread]:
                message = "the catalog cannot be written while this thread uses it: write it after that call ends"
                raise CatalogError(message)
            self._waiting += 1
            try:
                while self._writer or self.has_read_only_reader:
                    on_wait()
                    self.changed.wait(_POLL_SECONDS)
                self._writer, self._writing_thread = Holder(self), thread
            finally:
                self._waiting -= 1
                self.changed.notify_all()
        try:
            yield self._writer
        finally:
            with self.changed:
                self._writer = self._writing_thread = None
                self.changed.notify_all()

    @property
    def has_read_only_reader(self) -> bool:
        """Whether a thread reads on a read-only connection, which a writer cannot share."""
        return any(not reader.read_write for reader in self._readers)

    def _admits_readers(self) -> bool:
        if self._writer:
            return self._writer.read_write
        return not self._waiting and not any(reader.read_write for reader in self._readers)
