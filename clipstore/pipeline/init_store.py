"""`clipstore store init`: create a store, or choose where the shards of one without shards are."""

from __future__ import annotations

import msgspec

from clipstore.errors import NotFoundError, StoreError
from clipstore.objects import put_bytes, read_object
from clipstore.records import Row
from clipstore.shards.location import shards_url
from clipstore.store.layout import Store
from clipstore.store.recovery import has_records, save_records
from clipstore.store.settings import ensure_settings, set_shards


def init_store(store: Store, shards: str | None = None) -> Row:
    """Create a store, with its shards below the URL `shards` or in its folder. An existing store keeps its content.

    Returns {"store", "id", "shards"}; "shards" is None if they are in the folder of the store.

    Raises:
        StoreError: `shards` is no URL of object storage, or has another store's; or the store has shards elsewhere.
        StorageError: there is no such bucket, it cannot be written, or does not answer.
        MissingExtraError: the packages for it are not installed.
    """
    url = shards_url(shards) if shards is not None else None
    settings = ensure_settings(store)
    if url is not None:
        if settings.shards != url:
            _check_without_shards(store, settings.shards, url)
        _claim(url, settings.id)
        settings = set_shards(store, url)
    if not store.catalog.path.exists() and not has_records(store):
        with store.catalog.write(create=True) as session:
            save_records(session, store)
    return {"store": str(store.root), "id": settings.id, "shards": settings.shards}


def _claim(url: str, store_id: str) -> None:
    """Write the id of the store beside its shards, which shows that the bucket can be written, and whose they are.

    Raises:
        StoreError: the id of another store is there.
        StorageError: see `init_store`.
    """
    mark, content = f"{url}/store.json", msgspec.json.encode({"id": store_id}) + b"\n"
    try:
        stored = read_object(mark)
    except FileNotFoundError:
        stored = b""
    if stored not in (b"", content):
        message = f"{url} has the shards of another store, as {mark} says: choose another prefix"
        raise StoreError(message)
    put_bytes(content, mark)


def _check_without_shards(store: Store, current: str | None, url: str) -> None:
    """Refuse another place for the shards of a store that has some.

    Raises:
        StoreError: it has registered shards, or shard files.
    """
    registered = 0
    try:
        with store.catalog.read() as session:
            registered = session.rows("shards/count")[0]["shards"]
    except NotFoundError:
        pass
    if registered or any(file for folder in (store.shards, store.scores) for file in folder.glob("*/*.h5")):
        message = (
            f"the shards of {store.root} are in {current or store.shards} and cannot be moved to {url}: create another "
            "store with 'clipstore store init --shards', ingest and embed there"
        )
        raise StoreError(message)
