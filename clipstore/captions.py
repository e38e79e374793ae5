"""Captions that are not embedded: too long ones, and blank ones as the macro `is_blank` of sql/schema/macros.sql."""

from __future__ import annotations

import re

MAX_CHARACTERS = 1_000_000  # that are tokenized of one text
TOO_LONG = f"the first {MAX_CHARACTERS:,} characters of the caption have too few words to be cut: shorten it"

# White space, control characters, and Unicode's Default_Ignorable_Code_Point.
_BLANK = re.compile(
    "[\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    "\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*"
)


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: only white space, control characters and characters of zero width."""
    return _BLANK.fullmatch(text) is not None
