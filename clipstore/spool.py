"""Tables in temporary files, for results that may be larger than memory."""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

BATCH_ROWS = 32_768  # rows that are in memory at once
MEMORY_LIMIT = 64 * 2**20  # bytes of a table that is collected in memory


class SpoolWriter:
    """Writes a table to a temporary file in `folder`; None, or a folder that is read-only: the system's for these.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, schema: pa.Schema, folder: Path | None) -> None:
        writable = folder is not None and os.access(folder, os.W_OK)
        self._folder = Path(folder if folder is not None and writable else tempfile.gettempdir())
        with self._named_errors():
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed with this object
            weakref.finalize(self, self._file.close)
            self._sink = pa.ipc.new_file(self._file, schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        self._starts = [0]

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Write rows."""
        batches = [rows] if isinstance(rows, pa.RecordBatch) else rows.to_batches(BATCH_ROWS)
        for batch in batches:
            if batch.num_rows:
                with self._named_errors():
                    self._sink.write_batch(batch)
                self._starts.append(self._starts[-1] + batch.num_rows)

    def finish(self) -> SpooledTable:
        """The table."""
        with self._named_errors():
            self._sink.close()
            self._file.flush()
        return SpooledTable(self, pa.ipc.open_file(self._file), self._starts)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Within the block, errors name a file in the folder: the temporary file has no name."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno or errno.EIO, reason, str(self._folder / "temporary file")) from error


class SpooledTable:
    """An Arrow table in a temporary file without a name, read in parts: its rows take disk space and not memory.

    The file disappears with the object, and with a process that is killed.
    """

    def __init__(self, writer: SpoolWriter, reader: pa.RecordBatchFileReader, starts: Sequence[int]) -> None:
        self._writer, self._reader = writer, reader  # the writer closes the file when it is deleted
        self._starts = np.array(starts, dtype=np.int64)  # first row of each batch, and the number of rows

    @classmethod
    def write(cls, batches: Iterable[pa.RecordBatch], schema: pa.Schema, folder: Path | None) -> SpooledTable:
        """Write batches to a file in `folder` (see `SpoolWriter`)."""
        writer = SpoolWriter(schema, folder)
        for batch in batches:
            writer.add(batch)
        return writer.finish()

    @classmethod
    def of(cls, table: pa.Table) -> SpooledTable:
        """A table that is in memory."""
        return cls.write(table.to_batches(), table.schema, None)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._reader.schema

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self._starts[-1])

    def parts(self, rows: int = BATCH_ROWS) -> Iterator[pa.Table]:
        """The table in order, in parts of `rows` rows; the last has the rest."""
        batches = (self._batch(number) for number in range(len(self._starts) - 1))
        return resized(batches, rows)

    def take(self, rows: Iterable[int]) -> pa.Table:
        """Some rows, whose numbers ascend."""
        numbers = np.fromiter(rows, dtype=np.int64)
        batch_of = np.searchsorted(self._starts, numbers, side="right") - 1
        taken = [
            self._batch(batch).take(pa.array(numbers[batch_of == batch] - self._starts[batch]))
            for batch in np.unique(batch_of).tolist()
        ]
        return pa.concat_tables([self.schema.empty_table(), *taken])

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as DuckDB and Arrow read it, each time from the beginning."""
        batches = (self._reader.get_batch(number) for number in range(len(self._starts) - 1))
        return pa.RecordBatchReader.from_batches(self.schema, batches).__arrow_c_stream__(requested_schema)

    def _batch(self, number: int) -> pa.Table:
        return pa.Table.from_batches([self._reader.get_batch(number)])


Table: TypeAlias = pa.Table | SpooledTable


class TableBuilder:
    """Collects the rows of a table: in memory, or in a temporary file once they take more than MEMORY_LIMIT."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._tables: list[pa.Table] = []
        self._writer: SpoolWriter | None = None

    def add(self, *columns: object) -> None:
        """Add rows, by the columns of the schema."""
        self._tables.append(pa.table(dict(zip(self._schema.names, columns, strict=True)), schema=self._schema))
        if sum(table.nbytes for table in self._tables) > MEMORY_LIMIT:
            self._spool()

    def finish(self) -> Table:
        """The table."""
        if self._writer is None:
            return pa.concat_tables([self._schema.empty_table(), *self._tables])
        self._spool()
        return self._writer.finish()

    def _spool(self) -> None:
        self._writer = self._writer or SpoolWriter(self._schema, None)
        for table in self._tables:
            self._writer.add(table)
        self._tables = []


def parts(table: Table) -> Iterator[pa.Table]:
    """The rows of a table that is in memory or in a file."""
    return table.parts() if isinstance(table, SpooledTable) else iter([table])


def mapped(table: Table, function: Callable[[pa.Table], pa.Table]) -> Table:
    """The results of a function for the parts of a table, as one table."""
    if not isinstance(table, SpooledTable):
        return function(table)
    results = map(function, table.parts())
    first = next(results)
    return SpooledTable.write(
        (batch for result in chain([first], results) for batch in result.to_batches()), first.schema, None
    )


def resized(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows of consecutive tables, in tables of `rows` rows; the last has the rest."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table)
        count += table.num_rows
        if count >= rows:
            joined = pa.concat_tables(waiting)
            whole = count // rows * rows
            yield from (joined.slice(start, rows) for start in range(0, whole, rows))
            waiting, count = [joined.slice(whole)], count - whole
    if count:
        yield pa.concat_tables(waiting)
