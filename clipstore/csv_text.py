"""CSV as RFC 4180 has it, with line feeds between records, and CSV that spreadsheets open without running formulas."""

from __future__ import annotations

import re
from collections.abc import Iterable

_QUOTED = re.compile('[",\r\n]')
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def csv_text(records: Iterable[Iterable[object]], *, safe: bool = False) -> str:
    """Records as CSV: fields with a comma, quote, line feed or carriage return are quoted; None is empty.

    With `safe`, see `safe_field`.
    """
    return "".join(_record([_text(value, safe=safe) for value in record]) for record in records)


def safe_field(text: str) -> str:
    """A field with an apostrophe before it where a spreadsheet would read a formula; numbers are unchanged.

    A formula begins with = + - @, a tab or a line break. Fields that have apostrophes before such a character get
    one more, so that all of them are restored by removing one.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _text(value: object, *, safe: bool) -> str:
    if value is None:
        return ""
    text = repr(value) if isinstance(value, float) else str(value)
    return safe_field(text) if safe else text


def _record(fields: list[str]) -> str:
    if fields == [""]:
        return '""\n'  # an empty line would be no record
    return ",".join(map(_quoted, fields)) + "\n"


def _quoted(field: str) -> str:
    return f'"{field.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(field) else field
