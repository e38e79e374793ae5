"""What a split holds, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipstore.records import Row
from clipstore.reporting.tables import console, of_total, print_table, terminal_width

_LENGTHS = ((0, 5), (6, 8), (9, 11), (12, 15), (16, 20), (21, 30), (31, 40))  # words, both ends included
_BAR = 40  # characters of the longest bar, where there is room
_BESIDE_BAR = 30  # characters of the columns beside it
_CATEGORIES = 10


def print_stats(told: Row) -> None:
    """Print the numbers, then the tables; of the longest, the first rows, and how many there are."""
    say = console()
    say.print(f"{told['split']}\n", style="bold")
    for name, value in _summary(told):
        say.print(f"  {name:34}{value}")
    say.print()
    print_table(_bars(told["captions_per_image"], "captions", "images"), title="Captions of an image")
    print_table(_bars(_lengths(told["caption_lengths"]), "words", "captions"), title="Words of a caption")
    words = [f"{row['word']} {row['times']:,}" for row in told["frequent_words"]]
    say.print(f"Most frequent words, {of_total(len(words), told.get('vocabulary', 0))}", style="bold")
    say.print(f"  {', '.join(words) or 'none'}\n")
    _print_first("Longest captions", told["longest_captions"], told["captions"])
    _print_first("Texts that stand most often", told["repeated_captions"], told["repeated_texts"])
    _print_first("Categories", told["categories"][:_CATEGORIES], len(told["categories"]))


def _print_first(title: str, rows: Sequence[Row], total: int) -> None:
    """Print the first rows of a table, with how many of how many they are in its title."""
    print_table(rows, empty="", title=f"{title}, {of_total(len(rows), total)}")


def _summary(told: Row) -> list[tuple[str, str]]:
    if not told["captions"]:
        return [("images", f"{told['images']:,}"), ("captions", "0")]
    return [
        ("images", f"{told['images']:,}"),
        ("  with a photo missing", f"{told['missing_photos']:,}"),
        ("  without captions", f"{told['images_without_captions']:,}"),
        ("captions", f"{told['captions']:,}"),
        ("  an image", f"{told['mean_captions']:.2f}"),
        ("words", f"{told['words']:,}"),
        ("  different (vocabulary)", f"{told['vocabulary']:,}"),
        ("  a caption", f"{told['shortest']} to {told['longest']}, mean {told['mean_words']:.1f}"),
        ("    median", f"{told['median_words']:.0f}"),
        ("repeated captions", f"{told['repeated']:,} (beyond the first of their text)"),
        ("  within an image", f"{told['repeated_within_an_image']:,}"),
        ("texts at several images", f"{told['texts_at_several_images']:,}"),
    ]


def _lengths(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Caption lengths in bins."""
    told = [
        {
            "words": f"{low}-{high}",
            "captions": sum(row["captions"] for row in rows if low <= row["words"] <= high),
        }
        for low, high in _LENGTHS
    ]
    longest = _LENGTHS[-1][1]
    above = {"words": f"over {longest}", "captions": sum(row["captions"] for row in rows if row["words"] > longest)}
    return [row for row in (*told, above) if row["captions"]]


def _bars(rows: Sequence[Row], what: str, count: str) -> list[dict[str, Any]]:
    """Rows with a bar each, as long as the terminal has room for."""
    most = max((row[count] for row in rows), default=1)
    width = terminal_width()
    longest = _BAR if width is None else max(1, min(_BAR, width - _BESIDE_BAR))
    return [{what: str(row[what]), count: row[count], "": "█" * round(longest * row[count] / most)} for row in rows]
