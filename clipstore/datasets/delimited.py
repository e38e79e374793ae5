"""Tables of text with a header: CSV, and its relatives with ';', tab or '|' between the columns.

The columns that clipstore reads have names of its own; those that other programs write instead are known too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from clipstore.datasets.files import read_text
from clipstore.errors import DatasetError

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}

# What other programs call a column, compared in lower case and with '_' for blanks.
OTHER_NAMES = {
    "image_path": (
        *("filepath", "file_path", "filename", "file_name", "image", "image_name", "image_file"),
        *("image_filename", "img", "img_path", "path"),
    ),
    "caption": ("title", "text", "comment", "sentence", "description"),
}


class Delimited(NamedTuple):
    """The rows of a table, each with its number (the header is row 1, as spreadsheets count), and warnings."""

    rows: list[tuple[int, list[str]]]
    warnings: tuple[str, ...]


def read_delimited(file: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Delimited:
    """The values of the `needed`, then the `optional` columns ("" where the file has none) of every row.

    The separator is the one with which the header has the needed columns. A header whose columns begin with a blank
    ("image| caption") says that the blank belongs to the separator.
    Raises DatasetError for a needed column that is missing or ambiguous, a column named twice, or a malformed row.
    """
    text = read_text(file)
    separator, header, blank = _header(text, needed)
    columns, renamed = _columns(file, header, needed, optional)
    warnings = [] if separator == "," else [f"{file}: {SEPARATORS[separator]} separates its columns"]
    if renamed:
        warnings.append(f"{file}: {' and '.join(f'{theirs!r} is read as {ours}' for ours, theirs in renamed.items())}")
    rows = []
    for number, row in _records(file, text, separator, skip_blank=blank):
        if len(row) != len(header):
            raise DatasetError(
                f"{file}: row {number} has {len(row)} fields and the header {len(header)}; "
                f"mend the row (a caption with {SEPARATORS[separator]} in it needs quotes)"
            )
        rows.append((number, ["" if column is None else row[column] for column in columns]))
    return Delimited(rows, tuple(warnings))


def _records(file: Path, text: str, separator: str, *, skip_blank: bool) -> list[tuple[int, list[str]]]:
    """The records after the header, without empty lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=skip_blank, strict=True)
    try:
        return [(number, row) for number, row in enumerate(reader, start=1) if row and number > 1]
    except csv.Error as error:
        raise DatasetError(f"{file} is not CSV: {error} (line {reader.line_num}); mend the quotes") from error


def _header(text: str, needed: Sequence[str]) -> tuple[str, list[str], bool]:
    """The separator, the names of the columns, and whether a blank follows each separator.

    The separator is the first that gives the needed columns, else the one that gives most columns.
    """
    line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    headers = {
        separator: [name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
        for separator in SEPARATORS
    }
    known = (found for found, header in headers.items() if all(_candidates(header, name) for name in needed))
    separator = next(known, max(headers, key=lambda found: len(headers[found])))
    after_the_first = line.split(separator)[1:]
    blank = bool(after_the_first) and all(name.startswith(" ") for name in after_the_first)
    return separator, headers[separator], blank


def _columns(
    file: Path, header: list[str], needed: Sequence[str], optional: Sequence[str]
) -> tuple[list[int | None], dict[str, str]]:
    """Where each column is, and the needed ones that go by another name."""
    found = {name: _candidates(header, name) for name in (*needed, *optional)}
    missing = [name for name in needed if not found[name]]
    if missing:
        raise DatasetError(
            f"{file} has no column {', '.join(missing)} (found: {str(header)[:200]}); name the columns in the first row"
        )
    for name, names in found.items():
        if len(names) > 1:
            raise DatasetError(f"{file}: {' and '.join(map(repr, names))} may both be the {name}; rename one to {name}")
        if names and header.count(names[0]) > 1:
            raise DatasetError(f"{file} has the column {names[0]} more than once; rename or remove one")
    columns = [header.index(names[0]) if names else None for names in found.values()]
    return columns, {name: found[name][0] for name in needed if found[name] != [name]}


def _candidates(header: Sequence[str], name: str) -> list[str]:
    """The columns that may be `name`: the one that is called so, else all that go by one of its other names."""
    if name in header:
        return [name]
    others = OTHER_NAMES.get(name, ())
    plain = {column: column.lower().replace(" ", "_") for column in header}
    return [column for column, other in plain.items() if other == name or other in others]
