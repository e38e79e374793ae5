"""`clipstore stats`: what a split holds, counted in SQL."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.store.layout import Store, split_id

# The statements that give the tables of a split, each with the number of rows that it returns at most.
_TABLES = {
    "stats/captions_per_image": None,
    "stats/caption_lengths": None,
    "stats/categories": None,
    "stats/frequent_words": 20,
    "stats/longest_captions": 5,
    "stats/repeated_captions": 5,
}


def split_stats(store: Store, split: str) -> Row:
    """The numbers of a split, and its tables: how many captions an image has, how long they are, words, categories.

    Raises:
        NotFoundError: there is no such split.
    """
    with store.catalog.read() as session:
        target = split_id(session, split)
        told: Row = {"split": split, **session.rows("stats/summary", split_id=target)[0]}
        for statement, limit in _TABLES.items():
            options = {} if limit is None else {"most": limit}
            told[statement.removeprefix("stats/")] = session.rows(statement, split_id=target, **options)
    return told
