"""Tables in temporary files give the rows of the table, in parts of any size."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from clipstore.spool import SpooledTable, resized

TABLE = pa.table({"number": range(1000), "text": [str(number) for number in range(1000)]})


@pytest.mark.parametrize("rows", [1, 7, 1000, 5000])
def test_parts_have_the_rows_in_order(tmp_path: Path, rows: int) -> None:
    spooled = SpooledTable.write(TABLE.to_batches(max_chunksize=64), TABLE.schema, tmp_path)
    parts = list(spooled.parts(rows))
    assert pa.concat_tables(parts) == TABLE
    assert {part.num_rows for part in parts[:-1]} <= {rows}
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_rows_are_taken_by_number() -> None:
    spooled = SpooledTable.write(TABLE.to_batches(max_chunksize=64), TABLE.schema, None)
    assert spooled.take([0, 63, 64, 999]) == TABLE.take([0, 63, 64, 999])
    assert spooled.take([]).num_rows == 0


def test_an_empty_table_has_no_parts() -> None:
    spooled = SpooledTable.of(TABLE.slice(0, 0))
    assert spooled.num_rows == 0
    assert list(spooled.parts()) == []


def test_two_readers_do_not_disturb_one_another() -> None:
    spooled = SpooledTable.write(TABLE.to_batches(max_chunksize=64), TABLE.schema, None)
    pairs = list(zip(spooled.parts(10), spooled.parts(10), strict=True))
    assert all(first == second for first, second in pairs)


def test_resizing_keeps_the_order() -> None:
    assert pa.concat_tables(resized([TABLE.slice(0, 3), TABLE.slice(3, 500), TABLE.slice(503)], 100)) == TABLE
