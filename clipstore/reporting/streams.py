"""Text streams on which printing cannot fail because of their encoding, and text that cannot control a terminal."""

from __future__ import annotations

import codecs
import unicodedata
from typing import TextIO

READABLE = "clipstore.readable"  # an error handler that replaces characters that the stream cannot encode

# Typographic characters in clipstore's output, and their replacements in ASCII.
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

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, encoding: str | None) -> str:
    """The text as a stream with this encoding prints it: missing characters become ASCII or an escape."""
    if not encoding or text.isascii():
        return text
    return text.encode(encoding, READABLE).decode(encoding)


def visible(text: str, *, keep: str = "") -> str:
    r"""The text with an escape such as \x1b in place of each control character, except those in `keep`.

    Such characters move the cursor, change the terminal or its title, break lines, or reorder the text (bidi controls).
    """
    return text if text.isprintable() else "".join(c if c in keep else _escaped(c) for c in text)


def never_fail(*streams: TextIO | None) -> None:
    """Make streams replace characters that they cannot encode, instead of raising an error."""
    for stream in streams:
        if stream is not None and hasattr(stream, "reconfigure"):  # streams of a notebook have no encoding
            stream.reconfigure(errors=READABLE)


def _escaped(character: str) -> str:
    is_control = character in _BIDI_CONTROLS or unicodedata.category(character) in {"Cc", "Zl", "Zp"}
    return character.encode("unicode_escape").decode("ascii") if is_control else character


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    replacements = (
        _ASCII.get(character) or character.encode("ascii", "backslashreplace").decode("ascii") for character in missing
    )
    return "".join(replacements), error.end


codecs.register_error(READABLE, _replace)
