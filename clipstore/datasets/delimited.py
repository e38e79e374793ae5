"""Text tables with a header: CSV, and variants with ';', tab or '|' between the columns.

Columns may also have the names that other programs write.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TextIO

from clipstore.datasets.files import read_text
from clipstore.errors import DatasetError

_LONGEST_HEADER = 2**16
_LINE_END = re.compile(r"[\r\n]")

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}

# Other names of a required column, compared in lower case and with '_' for blanks.
OTHER_NAMES = {
    "image_path": (
        *("filepath", "file_path", "filename", "file_name", "image", "image_name", "image_file"),
        *("image_filename", "img", "img_path", "path"),
    ),
    "positive": ("caption", "positive_caption", "true_caption"),
    "negative": ("negative_caption", "hard_negative", "false_caption", "foil"),
    "caption": ("title", "text", "comment", "sentence", "description"),
    "class": ("label", "category", "class_name", "label_name", "category_name"),
}


class Delimited(NamedTuple):
    """The rows of a table, each with its number (the header is row 1, as spreadsheets count), and warnings."""

    rows: list[tuple[int, list[str]]]
    warnings: tuple[str, ...]


def has_columns(file: Path, names: Sequence[str]) -> bool:
    """Whether the header of a table has these columns, by their own or other names."""
    _, header, _ = _header(read_text(file), names)
    return all(_candidates(header, name) for name in names)


def read_delimited(file: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Delimited:
    """The values of the `required`, then the `optional` columns ("" where the file has none) of every row.

    The separator is the one with which the header has the required columns. If the columns of the header begin with a
    blank ("image| caption"), the blank belongs to the separator.
    Raises DatasetError for a required column that is missing or ambiguous, a column named twice, or a malformed row.
    """
    text = read_text(file)
    rows, warnings = _read(file, text, io.StringIO(text, newline=""), required, optional)
    return Delimited(list(rows), warnings)


@contextmanager
def delimited_rows(
    file: Path, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[Iterator[tuple[int, list[str]]], tuple[str, ...]]]:
    """As `read_delimited`, with rows that are read one by one.

    Raises DatasetError also for what `read_delimited` accepts: a header of more than 64 KiB.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        start = stream.read(_LONGEST_HEADER)
        if not _LINE_END.search(start):
            raise DatasetError(f"{file} has no header")
        stream.seek(0)
        yield _read(file, start, stream, required, optional)


def _read(
    file: Path, start: str, stream: TextIO, required: Sequence[str], optional: Sequence[str]
) -> tuple[Iterator[tuple[int, list[str]]], tuple[str, ...]]:
    """The rows of a stream, and the warnings about its header; `start` has the header."""
    separator, header, blank = _header(start, required)
    columns, renamed = _columns(file, header, required, optional)
    warnings = [] if separator == "," else [f"{file}: {SEPARATORS[separator]} separates its columns"]
    if renamed:
        warnings.append(f"{file}: {' and '.join(f'{column!r} is read as {name}' for name, column in renamed.items())}")

    def rows() -> Iterator[tuple[int, list[str]]]:
        for number, row in _records(file, stream, separator, skip_blank=blank):
            if len(row) != len(header):
                raise DatasetError(
                    f"{file}: row {number} has {len(row)} fields and the header {len(header)}; "
                    f"fix the row (a caption with {SEPARATORS[separator]} in it needs quotes)"
                )
            yield number, ["" if column is None else row[column] for column in columns]

    return rows(), tuple(warnings)


def _records(file: Path, stream: TextIO, separator: str, *, skip_blank: bool) -> Iterator[tuple[int, list[str]]]:
    """The records after the header, without empty lines."""
    reader = csv.reader(stream, delimiter=separator, skipinitialspace=skip_blank, strict=True)
    try:
        yield from ((number, row) for number, row in enumerate(reader, start=1) if row and number > 1)
    except csv.Error as error:
        raise DatasetError(f"{file} is not CSV: {error} (line {reader.line_num}); fix the quotes") from error


def _header(text: str, required: Sequence[str]) -> tuple[str, list[str], bool]:
    """The separator, the names of the columns, and whether a blank follows each separator.

    The separator is the first that gives the required columns, else the one that gives most columns.
    """
    line = _LINE_END.split(text, maxsplit=1)[0]
    headers = {
        separator: [name.strip() for name in next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])]
        for separator in SEPARATORS
    }
    fitting = (key for key, header in headers.items() if all(_candidates(header, name) for name in required))
    separator = next(fitting, max(headers, key=lambda key: len(headers[key])))
    later_names = line.split(separator)[1:]
    blank = bool(later_names) and all(name.startswith(" ") for name in later_names)
    return separator, headers[separator], blank


def _columns(
    file: Path, header: list[str], required: Sequence[str], optional: Sequence[str]
) -> tuple[list[int | None], dict[str, str]]:
    """The position of each column (None: absent), and the names of required columns that have another name."""
    candidates = {name: _candidates(header, name) for name in required}
    candidates |= {name: _candidates(header, name, others=()) for name in optional}
    missing = [name for name in required if not candidates[name]]
    if missing:
        raise DatasetError(
            f"{file} has no column {', '.join(missing)} (columns: {str(header)[:200]}); "
            "name the columns in the first row"
        )
    for name, names in candidates.items():
        if len(names) > 1:
            raise DatasetError(f"{file}: {' and '.join(map(repr, names))} may both be the {name}; rename one to {name}")
        if names and header.count(names[0]) > 1:
            raise DatasetError(f"{file} has the column {names[0]} more than once; rename or remove one")
    columns = [header.index(names[0]) if names else None for names in candidates.values()]
    return columns, {name: candidates[name][0] for name in required if candidates[name] != [name]}


def _candidates(header: Sequence[str], name: str, others: Sequence[str] | None = None) -> list[str]:
    """The columns that may be `name`: the one with this name, else all with one of its `others` (OTHER_NAMES)."""
    if name in header:
        return [name]
    others = OTHER_NAMES.get(name, ()) if others is None else others
    plain = {column: column.lower().replace(" ", "_") for column in header}
    return [column for column, other in plain.items() if other == name or other in others]
