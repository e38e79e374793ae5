"""Rows as a table, as CSV or as JSON, on stdout."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import count
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipstore.errors import CatalogError

if TYPE_CHECKING:
    import pyarrow as pa

Row = Mapping[str, Any]

_PIPED_WIDTH = 160  # columns where there is no terminal to ask
_CELL = 200  # characters of one value in a table; CSV and JSON have it whole


def console() -> Console:
    """A console on stdout, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False, markup=False)


def print_table(rows: Sequence[Row], *, empty: str = "nothing", title: str | None = None) -> None:
    """Print rows that share their keys; numbers stand to the right."""
    if not rows:
        console().print(empty)
        return
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for key in rows[0]:
        numbers = all(isinstance(row[key], int | float | Decimal) or row[key] is None for row in rows)
        heading = Text(key.replace("_", " "))
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row.values()))
    console().print(table)


def print_rows(table: pa.Table, form: str) -> None:
    """Print an Arrow table as "table", "csv" or "json"."""
    table = table.rename_columns(_distinct(table.column_names))
    try:
        rows = table.to_pylist()
    except (OverflowError, ValueError) as error:  # a date past the year 9999, for one
        message = f"the answer holds a value that Python has no word for ({error}): cast it to VARCHAR in the query"
        raise CatalogError(message) from error
    if form == "json":
        print_json(rows)
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in rows)
    else:
        print_table(rows, empty="no rows")


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names with a number after those that stood before, as joins give them; rows are mappings by name."""
    told: list[str] = []
    for name in names:
        again = (f"{name}_{number}" for number in count(1))
        told.append(name if name not in told else next(new for new in again if new not in {*told, *names}))
    return told


def print_json(result: Any) -> None:
    """Print a result as JSON."""
    sys.stdout.write(json.dumps(_plain(result), indent=2, default=str, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """A value in JSON's words: NaN and infinity are null, and the decimals of DuckDB's sums are numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def duration(seconds: float) -> str:
    """A time as people write it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
