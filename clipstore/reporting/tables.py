"""Rows as a table, as CSV or as JSON, on stdout. All commands print their tables here.

No value is ever cut, and no number, name or word is broken:

- Off a terminal (a pipe, a file) a table is as wide as its values.
- On a terminal, a table that is too wide is set narrower: its columns move together, headings made of words break at
  blanks, and text of more than 24 characters wraps at blanks.
- A table that is still too wide is printed as records, one line `column: value` for each value.

Column names are printed as the rows have them, so that they can be copied. A float is printed as the shortest decimal
that reads back as the same float, which is also what JSON has; a table that rounds makes its own strings.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console

from clipstore.errors import CatalogError
from clipstore.records import Row
from clipstore.reporting.streams import printable

if TYPE_CHECKING:
    import pyarrow as pa

_TOTAL_ROWS = b"total_rows"  # in an Arrow table's metadata: how many rows there are without its limit

_TEXT = 24  # characters; longer text may wrap at blanks, to no less than this
_GAPS = (3, 2, 1)  # blanks between two columns: at first, and where that is too wide


def console() -> Console:
    """A console on stdout that breaks no lines: a terminal shows a long one on several rows."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


def terminal_width() -> int | None:
    """The columns of the terminal on stdout; None: stdout is no terminal."""
    return console().width if sys.stdout.isatty() else None


def print_table(
    rows: Sequence[Row], *, empty: str = "nothing", title: str | None = None, whole_headings: bool = False
) -> None:
    """Print rows that share their keys; numbers are aligned to the right.

    With `whole_headings`, no heading is broken: they are names that can be copied.
    """
    say = console()
    if not rows:
        say.print(empty)
        return
    if title:
        say.print(title, style="bold")
    width = terminal_width()
    columns = [_column(key, rows) for key in rows[0]]
    table = next((table for gap in _GAPS if (table := _fitted(columns, width, gap, whole=whole_headings))), None)
    if table is None:
        _print_records(columns, width or 0)
        return
    say.print("\n".join(table.heading), style="bold")
    sys.stdout.write("\n".join([*table.body, "", ""]))


def print_rows(table: pa.Table, form: str) -> None:
    """Print an Arrow table as "table", "csv" or "json"; and where a limit left rows out, how many of how many these
    are: below the table, or on stderr.
    """
    total = total_rows(table)
    table = table.rename_columns(_distinct(table.column_names))
    try:
        rows = table.to_pylist()
    except (OverflowError, ValueError) as error:  # a date past the year 9999, for one
        message = f"the answer holds a value that Python has no word for ({error}): cast it to VARCHAR in the query"
        raise CatalogError(message) from error
    if form == "json":
        print_json(rows)
    elif form == "csv":
        _print_csv(table.column_names, rows)
    else:
        print_table(rows, empty="no rows", whole_headings=True)
    if table.num_rows < total:
        note = f"{of_total(table.num_rows, total)} rows: -p limit={total} prints all\n"
        (sys.stdout if form == "table" else sys.stderr).write(note)


def total_rows(table: pa.Table) -> int:
    """How many rows an answer has without its limit."""
    return int((table.schema.metadata or {}).get(_TOTAL_ROWS, table.num_rows))


def of_total(shown: int, total: int) -> str:
    """How many of how many are printed: "20 of 812", or the number alone where these are all."""
    return f"{shown:,} of {total:,}" if shown < total else f"{total:,}"


def print_json(result: Any) -> None:
    """Print a result as JSON."""
    sys.stdout.write(json.dumps(plain(result), indent=2, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity are None, and the decimals of DuckDB's sums are numbers.

    A decimal with more digits than a float holds is a string. Mappings are dicts, sequences are lists, and everything
    else that JSON lacks (paths, times) is a string.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Decimal):
        if value == value.to_integral_value():
            return int(value)
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)


def cell(value: Any) -> str:
    """A value as a table shows it, on one line: a control character is shown as its escape."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = repr(float(value)) if isinstance(value, float) else str(value)
    return text if text.isprintable() else "".join(map(_visible, text))


def duration(seconds: float) -> str:
    """A time as people write it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


@dataclass(frozen=True)
class _Column:
    """A column before it is set: its name, its values as text, and whether they are numbers."""

    name: str
    cells: list[str]
    numbers: bool

    @property
    def width(self) -> int:
        """The widest value."""
        return max(map(cell_len, self.cells))

    @property
    def least(self) -> int:
        """The width that it needs at least: where text wraps at blanks, no word is broken."""
        if self.numbers or self.width <= _TEXT:
            return self.width
        return max(_TEXT, *(cell_len(word) for text in self.cells for word in text.split(" ")))


@dataclass(frozen=True)
class _Table:
    """A table that is set: the lines of its heading with the rule below, and those of its rows."""

    heading: list[str]
    body: list[str]


def _column(key: str, rows: Sequence[Row]) -> _Column:
    numbers = all(isinstance(row[key], int | float | Decimal) or row[key] is None for row in rows)
    encoding = _encoding()
    return _Column(printable(cell(key), encoding), [printable(cell(row[key]), encoding) for row in rows], numbers)


def _fitted(columns: Sequence[_Column], width: int | None, gap: int, *, whole: bool) -> _Table | None:
    """The columns side by side, `gap` blanks apart, their headings `whole` or broken; None: wider than `width`."""
    names = [[column.name] for column in columns]
    broken = names if whole else [re.split(r" |(?=@)", column.name) for column in columns]
    for headings, wrapped in ((names, False), (broken, True)):
        of_names = [max(map(cell_len, heading)) for heading in headings]
        pairs = list(zip(columns, of_names, strict=True))
        least = [max(name, column.least if wrapped else column.width) for column, name in pairs]
        room = math.inf if width is None else width - sum(least) - gap * (len(columns) - 1) - 2
        if room >= 0:
            wanted = [max(name, column.width) for column, name in pairs]
            return _set(columns, headings, _shared(least, wanted, room), gap)
    return None


def _shared(least: Sequence[int], wanted: Sequence[int], room: float) -> list[int]:
    """The widths of columns that have `room` beyond the least: those that want little get it, the others share."""
    widths = list(least)
    open_columns = sorted(range(len(widths)), key=lambda at: wanted[at] - least[at])
    for number, at in enumerate(open_columns):
        more = min(wanted[at] - least[at], room // (len(open_columns) - number))
        widths[at] += int(more)
        room -= more
    return widths


def _set(columns: Sequence[_Column], headings: Sequence[list[str]], widths: Sequence[int], gap: int) -> _Table:
    def lines(cells: Sequence[Sequence[str]]) -> Iterator[str]:
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (
                " " * (width - cell_len(part)) + part if column.numbers else part + " " * (width - cell_len(part))
                for part, width, column in zip(parts, widths, columns, strict=True)
            )
            yield f" {(' ' * gap).join(padded)}".rstrip()

    rule = printable("─", _encoding()) * (sum(widths) + gap * (len(widths) - 1))
    body = [
        line
        for row in zip(*(column.cells for column in columns), strict=True)
        for line in lines([_wrapped(value.split(" "), width) for value, width in zip(row, widths, strict=True)])
    ]
    return _Table(["", *lines(headings), f" {rule}"], body)


def _wrapped(words: Sequence[str], width: int) -> list[str]:
    """Words in lines of at most `width` columns; a longer word is a line of its own."""
    lines: list[str] = []
    for word in words:
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _print_records(columns: Sequence[_Column], width: int) -> None:
    """Every row as lines `column: value`; a long value goes on below, indented."""
    say, total = console(), len(columns[0].cells)
    for number in range(total):
        say.print(f"\n row {number + 1:,} of {total:,}", style="bold")
        for column in columns:
            first, *more = column.cells[number].split(" ")
            lines = _wrapped([f"{column.name}: {first}".rstrip(), *more], width - 4)
            sys.stdout.write(" " + "\n   ".join(lines) + "\n")
    sys.stdout.write("\n")


def _print_csv(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Print CSV; where stdout's encoding lacks some of its characters, say so on stderr."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(row.values() for row in rows)
    sys.stdout.write(text.getvalue())
    if printable(text.getvalue(), _encoding()) != text.getvalue():
        sys.stderr.write(
            f"clipstore: {_encoding()} lacks characters of this CSV, which are escaped: set PYTHONIOENCODING=utf-8\n"
        )


def _encoding() -> str | None:
    """Of stdout; None: it takes any text, as a notebook's does."""
    return getattr(sys.stdout, "encoding", None)


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names with a number after those that stood before, as joins give them; rows are mappings by name."""
    told: list[str] = []
    for name in names:
        again = (f"{name}_{number}" for number in count(1))
        told.append(name if name not in told else next(new for new in again if new not in {*told, *names}))
    return told


def _visible(character: str) -> str:
    """A character that would move the cursor or command the terminal as its escape, any other as it is."""
    commands = unicodedata.category(character) in ("Cc", "Zl", "Zp")
    return character.encode("unicode_escape").decode("ascii") if commands else character
