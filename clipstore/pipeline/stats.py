"""`clipstore stats`: the statistics of a split, computed in SQL."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.store.layout import Store, split_id

# The statements of the tables, each with the number of rows that it returns at most.
_TABLES = {
    "stats/captions_per_image": None,
    "stats/caption_lengths": None,
    "stats/categories": None,
    "stats/frequent_words": 20,
    "stats/longest_captions": 5,
    "stats/repeated_captions": 5,
}


def split_stats(store: Store, split: str) -> Row:
    """The statistics of a split: totals, captions per image, caption lengths, words and categories.

    Raises:
        NotFoundError: there is no such split.
    """
    with store.catalog.read() as session:
        target = split_id(session, split)
        stats: Row = {"split": split, **session.rows("stats/summary", split_id=target)[0]}
        for statement, limit in _TABLES.items():
            parameters = {} if limit is None else {"limit": limit}
            stats[statement.removeprefix("stats/")] = session.rows(statement, split_id=target, **parameters)
    return stats
