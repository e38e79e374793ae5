"""Text streams on which printing never fails, whatever their encoding."""

from __future__ import annotations

import codecs
from typing import TextIO

READABLE = "clipstore.readable"  # the error handler: characters that an encoding lacks are replaced, never an error

# Typographic characters of our own output, and what stands for them in ASCII.
_ASCII = {
    "→": "->",
    "…": "...",
    "\N{EN DASH}": "-",
    "\N{EM DASH}": "-",
    "\N{MULTIPLICATION SIGN}": "x",
    "─": "-",
    "━": "-",
    "█": "#",
    "\N{NO-BREAK SPACE}": " ",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
}


def printable(text: str, encoding: str | None) -> str:
    """The text as a stream of this encoding prints it: a character that it lacks becomes ASCII, or an escape."""
    if not encoding or text.isascii():
        return text
    return text.encode(encoding, READABLE).decode(encoding)


def never_fail(*streams: TextIO | None) -> None:
    """Have streams print what their encoding lacks in ASCII or as an escape, instead of failing."""
    for stream in streams:
        if stream is not None and hasattr(stream, "reconfigure"):  # a notebook's streams have no encoding to fail at
            stream.reconfigure(errors=READABLE)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_ASCII.get(one) or one.encode("ascii", "backslashreplace").decode("ascii") for one in lacking)
    return "".join(escaped), error.end


codecs.register_error(READABLE, _replace)
