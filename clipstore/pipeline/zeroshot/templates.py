"""Templates: texts with a placeholder for the name of a class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from clipstore.datasets.files import read_lines
from clipstore.errors import OptionError

PLACEHOLDER = "{}"

# What the CLIP paper uses where it does not ensemble (Radford et al., 2021, section 3.1.4).
DEFAULT_TEMPLATES = ("a photo of a {}.",)


def read_templates(file: Path) -> tuple[str, ...]:
    """The templates of a UTF-8 text file, one per line. White space around them is removed, blank lines are skipped.

    Raises:
        DatasetError: the file cannot be read, is empty, or is not text in UTF-8.
        OptionError: a line has no placeholder, or repeats another one; the message has its number.
    """
    lines = {number: line.strip() for number, line in enumerate(read_lines(file), start=1) if line.strip()}
    for number, template in lines.items():
        _check_template(f"{file}, line {number}", template)
    check_templates(tuple(lines.values()), [f"{file}, line {number}" for number in lines])
    return tuple(lines.values())


def check_templates(templates: Sequence[str], places: Sequence[str] | None = None) -> None:
    """Check templates; `places` says where each is, for messages.

    Raises:
        OptionError: there are none, one has no placeholder, or one repeats another.
    """
    if not templates:
        message = f"there are no templates: give at least one, such as {DEFAULT_TEMPLATES[0]!r}"
        raise OptionError(message)
    places = [f"template {number}" for number in range(1, len(templates) + 1)] if places is None else places
    first: dict[str, str] = {}
    for place, template in zip(places, templates, strict=True):
        _check_template(place, template)
        if template in first:
            message = f"{place} repeats {first[template]} ({template[:80]!r}), which would count twice: remove one"
            raise OptionError(message)
        first[template] = place


def templates_digest(templates: Sequence[str]) -> str:
    """SHA-256 of templates in their order."""
    return hashlib.sha256("\n".join(templates).encode()).hexdigest()


def _check_template(place: str, template: str) -> None:
    if PLACEHOLDER not in template:
        message = f"{place}: {template[:80]!r} has no {PLACEHOLDER}: write it where the name of the class belongs"
        raise OptionError(message)
