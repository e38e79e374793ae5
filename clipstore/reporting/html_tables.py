"""Tables and notes as HTML for notebooks. All text is escaped: captions, names and paths come from datasets."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clipstore.reporting.tables import cell

_SHOWN_ROWS = 100


def html_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """Rows that share their keys as an HTML table: at most 100 of them, with the number of the others below."""
    if not rows:
        return ""
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    heading = _row("th", rows[0])
    body = "".join(_row("td", row.values()) for row in rows[:_SHOWN_ROWS])
    more = html_notes([f"{len(rows) - _SHOWN_ROWS:,} more rows"]) if len(rows) > _SHOWN_ROWS else ""
    return f"<table>{caption}<thead>{heading}</thead><tbody>{body}</tbody></table>{more}"


def html_notes(lines: Iterable[str]) -> str:
    """Lines of text, each as a paragraph in small letters."""
    return "".join(f"<p><small>{html.escape(line)}</small></p>" for line in lines)


def _row(tag: str, values: Iterable[Any]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell(value))}</{tag}>' for value in values)}</tr>"
