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


def summary_rows(summaries: Sequence[Row], *, dry_run: bool) -> list[Row]:
    """The summaries of an embed run as rows to print."""
    return [_planned(row) if dry_run else _done(row) for row in summaries]


def summary_notes(summaries: Sequence[Row]) -> list[str]:
    """What a reader of an embed summary should know, and can do."""
    notes = [
        f"{row['model']}: {row['lost_shards']} {row['tower']} shards were gone from the store: embedded again"
        for row in summaries
        if row["lost_shards"]
    ]
    if any(row["failed"] or row["missing"] for row in summaries):
        notes.append("'clipstore query item_failures' tells what failed; --retry-failed tries it once more")
    return notes


def _planned(row: Row) -> Row:
    return {
        "model": row["model"],
        "tower": row["tower"],
        "to embed": row["planned"],
        "there already": row["reused"],
        "known to fail": row["failed"],
        "missing photos": row["missing"],
        "bytes": _size(row["size"]),
        "about": duration(row["estimate"] or 0.0),
    }


def _done(row: Row) -> Row:
    clock = row["clock"]
    rate = row["done"] / row["seconds"] if row["seconds"] else 0.0
    return {
        "model": row["model"],
        "tower": row["tower"],
        "done": row["done"],
        "reused": row["reused"],
        "failed": row["failed"],
        "missing photos": row["missing"],
        "cut": row["cut"],
        "written": _size(row["size"]),
        "items/s": f"{rate:.0f}" if rate else "",
        "time": duration(row["seconds"]),
        "of it": ", ".join(
            f"{what} {duration(clock[key])}"
            for what, key in (("waiting for photos", "wait"), ("model", "forward"), ("writing", "write"))
            if clock[key] > 0
        ),
    }


def _size(size: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """A time as people write it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min {rest:02} s"
