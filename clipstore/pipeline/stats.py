"""`clipstore stats`: what a split holds, counted in SQL."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.store.layout import Store, split_id

_MOST = {"frequent_words": 20, "longest_captions": 5, "repeated_captions": 5}
_TABLES = ("captions_per_image", "caption_lengths", "categories", *_MOST)


def split_stats(store: Store, split: str) -> Row:
    """The numbers of a split, and its tables: how many captions an image has, how long they are, words, categories.

    Raises:
        NotFoundError: there is no such split.
    """
    with store.catalog.read() as session:
        target = split_id(session, split)
        told: Row = {"split": split, **session.rows("stats/summary", split_id=target)[0]}
        for name in _TABLES:
            limit = {"most": _MOST[name]} if name in _MOST else {}
            told[name] = session.rows(f"stats/{name}", split_id=target, **limit)
    return told
