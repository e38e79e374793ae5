"""Plots of a split's statistics: one HTML file that opens offline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go
import plotly.io as pio

from clipstore.files import write_whole
from clipstore.records import Row

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


def write_stats(file: Path, stats: Row) -> None:
    """Plot the statistics of a split into an HTML file that includes its scripts.

    Raises:
        OSError: the file cannot be written.
    """
    figures = [
        _bars("Captions per image", stats["captions_per_image"], "captions", "images"),
        _bars("Words per caption", stats["caption_lengths"], "words", "captions"),
        _bars("Most frequent words", stats["frequent_words"], "word", "times"),
    ]
    if stats["categories"]:
        figures.append(_bars("Images per category", stats["categories"][:_CATEGORIES], "category", "images"))
    plots = [
        pio.to_html(figure, full_html=False, include_plotlyjs=not number, config={"displaylogo": False})
        for number, figure in enumerate(figures)
    ]
    summary = (
        f"{stats['images']:,} images, {stats['captions']:,} captions, {stats['vocabulary']:,} different words, "
        f"{stats['repeated']:,} repeated captions"
    )
    page = _PAGE.format(title=html.escape(stats["split"]), summary=summary, plots="\n".join(plots))
    write_whole(file, page.encode())


def _bars(title: str, rows: Sequence[Row], name: str, count: str) -> go.Figure:
    labels = [str(row[name]).replace("<", "&lt;") for row in rows]  # plotly reads HTML tags in labels
    figure = go.Figure(go.Bar(x=labels, y=[row[count] for row in rows]))
    figure.update_layout(title=title, xaxis_title=name, yaxis_title=count, height=360, margin={"t": 48, "b": 48})
    figure.update_xaxes(type="category")
    return figure
