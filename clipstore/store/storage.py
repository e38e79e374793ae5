"""The storage of a store's shards, as its settings say."""

from __future__ import annotations

from clipstore.shards import LocalStorage, ObjectStorage, Storage
from clipstore.store.layout import Store
from clipstore.store.settings import read_settings


def shard_storage(store: Store) -> Storage:
    """Where the shards of a store are.

    Raises:
        StoreError: the settings of the store cannot be read.
    """
    settings = read_settings(store)
    return ObjectStorage(settings.shards) if settings and settings.shards else LocalStorage(store.root)
