"""Rows as a table, as CSV or as JSON, on stdout. All commands print their tables with these functions.

No value is cut, and no number, name or word is broken:

- If stdout is not a terminal, a table is as wide as its values.
- On a terminal, a table that is too wide is made narrower: the gaps between columns shrink, headings break at spaces,
  and text of more than 24 characters wraps at spaces.
- A table that is still too wide is printed as records, one line `column: value` for each value.

Column names are printed unchanged, so that they can be copied. A float is printed as the shortest decimal that reads
back as the same float, as in JSON; tables with rounded numbers pass strings.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count, zip_longest
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console

from clipstore.csv_text import csv_text
from clipstore.errors import CatalogError
from clipstore.records import Row
from clipstore.reporting.streams import printable, visible

if TYPE_CHECKING:
    import pyarrow as pa

_TOTAL_ROWS = b"total_rows"  # key of an Arrow table's metadata: the number of rows without the limit

_TEXT = 24  # characters; longer text may wrap at spaces, to at least this width
_GAPS = (3, 2, 1)  # spaces between columns, in the order in which they are tried


class SafeConsole(Console):
    """A console that escapes the control characters of the texts that it prints."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts, with styles of rich's own."""
        super().print(*(visible(text, keep="\n") if isinstance(text, str) else text for text in objects), **options)


def console() -> Console:
    """A console on stdout that does not break lines: a terminal wraps long ones."""
    return SafeConsole(highlight=False, markup=False, emoji=False, soft_wrap=True)


def terminal_width() -> int | None:
    """The width of the terminal on stdout, in characters; None: stdout is not a terminal."""
    return console().width if sys.stdout.isatty() else None


def print_table(
    rows: Sequence[Row], *, empty: str = "nothing", title: str | None = None, whole_headings: bool = False
) -> None:
    """Print rows with the same keys; numbers are aligned to the right.

    With `whole_headings`, no heading is broken, so that column names can be copied.
    """
    out = console()
    if not rows:
        out.print(empty)
        return
    if title:
        out.print(title, style="bold")
    width = terminal_width()
    columns = [_column(key, rows) for key in rows[0]]
    table = next((table for gap in _GAPS if (table := _fit(columns, width, gap, whole=whole_headings))), None)
    if table is None:
        _print_records(columns, width or 0)
        return
    out.print("\n".join(table.heading), style="bold")
    sys.stdout.write("\n".join([*table.body, "", ""]))


def print_rows(table: pa.Table, form: str, *, safe_csv: bool = False) -> None:
    """Print an Arrow table as "table", "csv" or "json"; with `safe_csv`, CSV has no formulas of spreadsheets.

    If a limit left rows out, a note with both numbers follows the table, or is printed on stderr.

    Raises:
        CatalogError: Python cannot represent a value.
    """
    total = total_rows(table)
    table = table.rename_columns(_unique_names(table.column_names))
    try:
        rows = table.to_pylist()
    except (OverflowError, ValueError) as error:  # a date after the year 9999, for example
        message = f"the result has a value that Python cannot represent ({error}): cast it to VARCHAR in the query"
        raise CatalogError(message) from error
    if form == "json":
        print_json(rows)
    elif form == "csv":
        _print_csv(table.column_names, rows, safe=safe_csv)
    else:
        print_table(rows, empty="no rows", whole_headings=True)
    if table.num_rows < total:
        note = f"{of_total(table.num_rows, total)} rows: -p limit={total} prints all\n"
        (sys.stdout if form == "table" else sys.stderr).write(note)


def total_rows(table: pa.Table) -> int:
    """The number of rows of a result without its limit."""
    return int((table.schema.metadata or {}).get(_TOTAL_ROWS, table.num_rows))


def of_total(shown: int, total: int) -> str:
    """The number of rows printed, and the total: "20 of 812", or only the total if all are printed."""
    return f"{shown:,} of {total:,}" if shown < total else f"{total:,}"


def print_json(result: Any) -> None:
    """Print a result as JSON."""
    text = json.dumps(plain(result), indent=2, allow_nan=False)  # ASCII; of control characters only DEL is not escaped
    sys.stdout.write(text.replace("\x7f", "\\u007f") + "\n")


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity are None, and the decimals of DuckDB's sums are numbers.

    A decimal that no float represents is a string. Mappings are dicts, sequences are lists, and all other
    values (paths, times) are strings.
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
    """A value as a table prints it, on one line: control characters are escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = repr(float(value)) if isinstance(value, float) else str(value)
    return visible(text)


def duration(seconds: float) -> str:
    """A duration such as "12.3 s", "4 min 05 s" or "2 h 07 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"


@dataclass(frozen=True)
class _Column:
    """A column before layout: its name, its values as text, and whether they are numbers."""

    name: str
    cells: list[str]
    numbers: bool

    @property
    def width(self) -> int:
        """The width of the widest value."""
        return max(map(cell_len, self.cells))

    @property
    def min_width(self) -> int:
        """The smallest possible width: text wraps at spaces, and no word is broken."""
        if self.numbers or self.width <= _TEXT:
            return self.width
        return max(_TEXT, *(cell_len(word) for text in self.cells for word in text.split(" ")))


@dataclass(frozen=True)
class _Layout:
    """The lines of a table: those of its heading, with the rule below, and those of its rows."""

    heading: list[str]
    body: list[str]


def _column(key: str, rows: Sequence[Row]) -> _Column:
    numbers = all(isinstance(row[key], int | float | Decimal) or row[key] is None for row in rows)
    encoding = _encoding()
    return _Column(printable(cell(key), encoding), [printable(cell(row[key]), encoding) for row in rows], numbers)


def _fit(columns: Sequence[_Column], width: int | None, gap: int, *, whole: bool) -> _Layout | None:
    """The columns side by side with `gap` spaces between them, headings `whole` or broken; None: wider than `width`."""
    names = [[column.name] for column in columns]
    broken = names if whole else [re.split(r" |(?=@)", column.name) for column in columns]
    for headings, wrapped in ((names, False), (broken, True)):
        heading_widths = [max(map(cell_len, heading)) for heading in headings]
        pairs = list(zip(columns, heading_widths, strict=True))
        least = [max(heading, column.min_width if wrapped else column.width) for column, heading in pairs]
        room = math.inf if width is None else width - sum(least) - gap * (len(columns) - 1) - 2
        if room >= 0:
            most = [max(heading, column.width) for column, heading in pairs]
            return _lay_out(columns, headings, _distribute(least, most, room), gap)
    return None


def _distribute(least: Sequence[int], most: Sequence[int], room: float) -> list[int]:
    """Column widths from `least` to `most` that use `room` more than the least; narrow columns are widened first."""
    widths = list(least)
    by_need = sorted(range(len(widths)), key=lambda column: most[column] - least[column])
    for number, column in enumerate(by_need):
        more = min(most[column] - least[column], room // (len(by_need) - number))
        widths[column] += int(more)
        room -= more
    return widths


def _lay_out(columns: Sequence[_Column], headings: Sequence[list[str]], widths: Sequence[int], gap: int) -> _Layout:
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
        for line in lines([_wrap(value.split(" "), width) for value, width in zip(row, widths, strict=True)])
    ]
    return _Layout(["", *lines(headings), f" {rule}"], body)


def _wrap(words: Sequence[str], width: int) -> list[str]:
    """Words in lines of at most `width` characters; a longer word has its own line."""
    lines: list[str] = []
    for word in words:
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _print_records(columns: Sequence[_Column], width: int) -> None:
    """Print every row as lines `column: value`; long values continue on indented lines."""
    out, total = console(), len(columns[0].cells)
    for number in range(total):
        out.print(f"\n row {number + 1:,} of {total:,}", style="bold")
        for column in columns:
            first, *more = column.cells[number].split(" ")
            lines = _wrap([f"{column.name}: {first}".rstrip(), *more], width - 4)
            sys.stdout.write(" " + "\n   ".join(lines) + "\n")
    sys.stdout.write("\n")


def _print_csv(names: Sequence[str], rows: Sequence[Row], *, safe: bool) -> None:
    """Print CSV; with a warning on stderr if stdout cannot encode some of its characters."""
    text = csv_text([names, *(row.values() for row in rows)], safe=safe)
    sys.stdout.write(text)
    if printable(text, _encoding()) != text:
        sys.stderr.write(
            f"clipstore: {_encoding()} cannot encode some characters, which are escaped: set PYTHONIOENCODING=utf-8\n"
        )


def _encoding() -> str | None:
    """The encoding of stdout; None: any text can be printed, as in a notebook."""
    return getattr(sys.stdout, "encoding", None)


def _unique_names(names: Sequence[str]) -> list[str]:
    """Column names with a number appended to repeated ones, which joins produce: rows are mappings by name."""
    unique: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        unique.append(name if name not in unique else next(new for new in numbered if new not in {*unique, *names}))
    return unique
