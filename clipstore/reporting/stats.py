"""The statistics of a split, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from clipstore.records import Row
from clipstore.reporting.tables import console, of_total, print_table, terminal_width

_LENGTHS = ((0, 5), (6, 8), (9, 11), (12, 15), (16, 20), (21, 30), (31, 40))  # words per caption, both ends included
_BAR = 40  # characters of the longest bar, if the terminal is wide enough
_BAR_OFFSET = 30  # characters of the columns next to it
_CATEGORIES = 10


def print_stats(stats: Row) -> None:
    """Print the numbers of a split, then its tables: of long ones the first rows, with the total."""
    out = console()
    out.print(f"{stats['split']}\n", style="bold")
    for name, value in _summary(stats):
        out.print(f"  {name:34}{value}")
    out.print()
    print_table(_bars(stats["captions_per_image"], "captions", "images"), title="Captions per image")
    print_table(_bars(_length_bins(stats["caption_lengths"]), "words", "captions"), title="Words per caption")
    words = [f"{row['word']} {row['times']:,}" for row in stats["frequent_words"]]
    out.print(f"Most frequent words, {of_total(len(words), stats.get('vocabulary', 0))}", style="bold")
    out.print(f"  {', '.join(words) or 'none'}\n")
    _print_first("Longest captions", stats["longest_captions"], stats["captions"])
    _print_first("Most frequent captions", stats["repeated_captions"], stats["repeated_texts"])
    _print_first("Categories", stats["categories"][:_CATEGORIES], len(stats["categories"]))


def _print_first(title: str, rows: Sequence[Row], total: int) -> None:
    """Print the first rows of a table, with their number and the total in the title."""
    print_table(rows, empty="", title=f"{title}, {of_total(len(rows), total)}")


def _summary(stats: Row) -> list[tuple[str, str]]:
    if not stats["captions"]:
        return [("images", f"{stats['images']:,}"), ("captions", "0")]
    return [
        ("images", f"{stats['images']:,}"),
        ("  image file missing", f"{stats['missing_photos']:,}"),
        ("  without captions", f"{stats['images_without_captions']:,}"),
        ("captions", f"{stats['captions']:,}"),
        *([("  hard negatives", f"{stats['hard_negatives']:,}")] if stats["hard_negatives"] else []),
        ("  per image", f"{stats['mean_captions']:.2f}"),
        ("words", f"{stats['words']:,}"),
        ("  different (vocabulary)", f"{stats['vocabulary']:,}"),
        ("  per caption", f"{stats['shortest']} to {stats['longest']}, mean {stats['mean_words']:.1f}"),
        ("    median", f"{stats['median_words']:.0f}"),
        ("repeated captions", f"{stats['repeated']:,} (after the first of each text)"),
        ("  within an image", f"{stats['repeated_within_an_image']:,}"),
        ("texts of several images", f"{stats['texts_at_several_images']:,}"),
    ]


def _length_bins(rows: Sequence[Row]) -> list[Row]:
    """Caption lengths in bins; empty bins are left out."""
    bins = [
        {
            "words": f"{low}-{high}",
            "captions": sum(row["captions"] for row in rows if low <= row["words"] <= high),
        }
        for low, high in _LENGTHS
    ]
    longest = _LENGTHS[-1][1]
    above = {"words": f"over {longest}", "captions": sum(row["captions"] for row in rows if row["words"] > longest)}
    return [row for row in (*bins, above) if row["captions"]]


def _bars(rows: Sequence[Row], name: str, count: str) -> list[Row]:
    """Rows with a bar each, scaled to the width of the terminal."""
    largest = max((row[count] for row in rows), default=1)
    width = terminal_width()
    longest = _BAR if width is None else max(1, min(_BAR, width - _BAR_OFFSET))
    return [{name: str(row[name]), count: row[count], "": "█" * round(longest * row[count] / largest)} for row in rows]
