"""The datasets in the catalog."""

from __future__ import annotations

from clipstore.records import Row
from clipstore.store.layout import Store


def list_datasets(store: Store) -> list[Row]:
    """The datasets of a store: the source that each was ingested from, and the number of its items.

    Raises:
        NotFoundError: there is no store.
    """
    with store.catalog.read() as session:
        return session.rows("ingest/datasets")
