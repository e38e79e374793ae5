"""Plots: one HTML file that opens from disk, without a network."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio

_CATEGORIES = 30
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
{plots}
</body>
</html>
"""


def write_stats(file: Path, told: Mapping[str, Any]) -> None:
    """Draw a split's statistics into an HTML file that carries all it needs.

    Raises:
        OSError: the file cannot be written.
    """
    words, categories = told["frequent_words"], told["categories"][:_CATEGORIES]
    figures = [
        _bars("Captions of an image", told["captions_per_image"], "captions", "images"),
        _bars("Words of a caption", told["caption_lengths"], "words", "captions"),
        _bars("Most frequent words", words, "word", "times"),
    ]
    if categories:
        figures.append(_bars("Images that show a category", categories, "category", "images"))
    drawn = [
        pio.to_html(figure, full_html=False, include_plotlyjs=not number, config={"displaylogo": False})
        for number, figure in enumerate(figures)
    ]
    summary = (
        f"{told['images']:,} images, {told['captions']:,} captions, {told['vocabulary']:,} different words, "
        f"{told['repeated']:,} repeated captions"
    )
    page = _PAGE.format(title=html.escape(told["split"]), summary=summary, plots="\n".join(drawn))
    file.write_text(page, encoding="utf-8")


def _bars(title: str, rows: Any, what: str, count: str) -> go.Figure:
    names = [str(row[what]).replace("<", "&lt;") for row in rows]  # plotly reads tags in labels
    figure = go.Figure(go.Bar(x=names, y=[row[count] for row in rows]))
    figure.update_layout(title=title, xaxis_title=what, yaxis_title=count, height=360, margin={"t": 48, "b": 48})
    figure.update_xaxes(type="category")
    return figure
