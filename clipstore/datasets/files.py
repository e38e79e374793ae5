"""Reading annotation files: bytes, text, JSON and CSV, with every way that can fail as a `DatasetError`."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from clipstore.errors import DatasetError, nearest
from clipstore.files import read_regular

T = TypeVar("T")


def read_json(file: Path, kind: type[T], what: str) -> T:
    """Decode `file` as `kind`, skipping every field that `kind` does not name.

    Raises DatasetError when the file cannot be read, is not JSON, or is not `what` (naming the field).
    """
    data = _read_bytes(file)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{file} is not {what}: {error}; mend that field or give another file") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise DatasetError(f"{file} is not JSON: {error}; download or write it again") from error


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, its line ends as they are; DatasetError when it is not to be had."""
    try:
        return _read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, ended by LF or CRLF and, unlike `str.splitlines`, by nothing else."""
    return [line.removesuffix("\r") for line in read_text(file).split("\n")]


def read_csv(file: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[list[str]]:
    """The rows of a CSV file with a header: the `needed`, then the `optional` columns ("" where it has none).

    Raises DatasetError for a needed column that is missing, a column named twice, or a malformed row.
    """
    reader = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DatasetError(f"{file} is not CSV: {error} (line {reader.line_num}); mend the quotes") from error
    header = [name.strip() for name in rows[0]]
    _check_header(file, header, needed, optional)
    # The header is row 1, as spreadsheets count.
    for number, row in enumerate(rows[1:], start=2):
        if row and len(row) != len(header):
            raise DatasetError(
                f"{file}: row {number} has {len(row)} fields and the header {len(header)}; "
                "mend the row (a caption with commas needs quotes)"
            )
    columns = [header.index(name) if name in header else None for name in (*needed, *optional)]
    return [["" if column is None else row[column] for column in columns] for row in rows[1:] if row]


def list_folder(folder: Path) -> list[str]:
    """The names in `folder`, sorted; DatasetError when it is missing, no folder, or may not be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DatasetError(f"cannot list the folder {folder}: {error.strerror}; check the path") from error


def _check_header(file: Path, header: list[str], needed: Sequence[str], optional: Sequence[str]) -> None:
    missing = [name for name in needed if name not in header]
    if missing:
        raise DatasetError(
            f"{file} has no column {', '.join(missing)} (found: {str(header)[:200]}); name the columns in the first row"
        )
    twice = [name for name in (*needed, *optional) if header.count(name) > 1]
    if twice:
        raise DatasetError(f"{file} has the column {twice[0]} more than once; rename or remove one")


def _read_bytes(file: Path) -> bytes:
    try:
        data = read_regular(file).removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError as error:
        siblings = [path.name for path in file.parent.glob("*") if path.suffix == file.suffix]
        raise DatasetError(f"{file} does not exist{nearest(file.name, siblings)}; check the path") from error
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror}; check the path") from error
    if not data or data.isspace():
        raise DatasetError(f"{file} is empty; download or write it again")
    return data
