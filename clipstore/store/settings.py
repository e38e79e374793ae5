"""The settings of a store, `STORE/store.json`: its id, and where its shards are.

The id is a random number that identifies the store wherever it is moved or copied. Every command that changes the
catalog creates the file where it is missing, as in a store of an earlier version.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
from msgspec import Meta

from clipstore.errors import StoreError
from clipstore.files import read_regular, write_whole
from clipstore.json_decoding import decode_json
from clipstore.store.layout import Store

FORMAT = 1

_FILE = "store.json"
_LOCK = ".store.lock"


class StoreSettings(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """store.json.

    Attributes:
        format: of this file.
        id: a UUID of version 4, in hex.
        shards: the URL below which the shards are; None: they are in the folder of the store.
    """

    format: int
    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}$")]
    shards: str | None = None


def read_settings(store: Store) -> StoreSettings | None:
    """The settings of a store; None if it has no such file yet.

    Raises:
        StoreError: the file cannot be read, or is of a newer format.
    """
    file = store.root / _FILE
    try:
        settings = decode_json(read_regular(file), StoreSettings)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        message = f"the settings {file} cannot be read ({reason}): restore a copy of the file"
        raise StoreError(message) from error
    if settings.format > FORMAT:
        message = (
            f"the settings {file} have format {settings.format}, and this clipstore reads formats up to {FORMAT}: "
            "install a later clipstore"
        )
        raise StoreError(message)
    return settings


def store_id(store: Store) -> str:
    """The id of a store. A store without settings gets them.

    Raises:
        StoreError: the settings cannot be read.
        OSError: they cannot be written.
    """
    return ensure_settings(store).id


def ensure_settings(store: Store) -> StoreSettings:
    """The settings of a store, which are created if there are none.

    Raises:
        StoreError: the settings cannot be read.
        OSError: they cannot be written.
    """
    settings = read_settings(store)
    if settings is None:
        with _lock(store):
            settings = read_settings(store) or _write(store, StoreSettings(format=FORMAT, id=uuid.uuid4().hex))
    return settings


def set_shards(store: Store, url: str) -> StoreSettings:
    """Record the URL of the shards of a store, which has none yet.

    Raises:
        StoreError: the settings cannot be read.
        OSError: they cannot be written.
    """
    settings = ensure_settings(store)
    return settings if settings.shards == url else _write(store, msgspec.structs.replace(settings, shards=url))


def _write(store: Store, settings: StoreSettings) -> StoreSettings:
    write_whole(store.root / _FILE, msgspec.json.encode(settings) + b"\n")
    return settings


@contextmanager
def _lock(store: Store) -> Iterator[None]:
    """Hold the lock for creating the settings, so that two processes do not give a store two ids."""
    store.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(store.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
