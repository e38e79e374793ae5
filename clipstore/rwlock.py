"""The lock by which threads of one process share a database file.

DuckDB opens a file either for reading or for writing, once per process; later connections share what is open. Readers
therefore share with readers, a writer waits for them, and readers that come while a writer has the file open share its
connection, where they see what was committed before.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clipstore.errors import CatalogError

_TICK = 0.05  # seconds between two looks of a waiting writer
_YIELD = 1.0  # seconds that a new reader gives way to a waiting writer, or waits for a read-write file to be closed


class Holder:
    """One reader or writer that holds the lock."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock
        self.read_write = False  # whether its connection is a read-write one

    def opened_read_write(self) -> None:
        """Note that the file is open for writing: a reader no longer stands in a writer's way."""
        with self._lock.changed:
            self.read_write = True
            self._lock.changed.notify_all()


class ReadWriteLock:
    """Many readers, or one writer with readers that share its open file. Not re-entrant, but for reads within reads.

    Raises (from `reading` and `writing`):
        CatalogError: this thread holds the lock already in a way that does not fit, and would wait for itself.
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
        """Hold the lock for reading. The wait is bounded: readers never fail for a thread of this process."""
        thread, holder = threading.get_ident(), Holder(self)
        with self.changed:
            if self._writing_thread == thread:
                message = "the catalog cannot be read while this thread writes it: read it when the writing has ended"
                raise CatalogError(message)
            if not self._threads[thread]:
                self.changed.wait_for(self._admits_readers, _YIELD)
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
        """Hold the lock for writing; `on_wait` is called again and again while others hold it, and may raise."""
        thread = threading.get_ident()
        with self.changed:
            if self._writing_thread == thread or self._threads[thread]:
                message = "the catalog cannot be written while this thread uses it: write it when that call has ended"
                raise CatalogError(message)
            self._waiting += 1
            try:
                while self._writer or self.read_apart:
                    on_wait()
                    self.changed.wait(_TICK)
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
    def read_apart(self) -> bool:
        """Whether a thread reads the file on a connection that a writer cannot share."""
        return any(not reader.read_write for reader in self._readers)

    def _admits_readers(self) -> bool:
        if self._writer:
            return self._writer.read_write
        return not self._waiting and not any(reader.read_write for reader in self._readers)
