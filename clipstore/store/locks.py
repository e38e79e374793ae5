"""Locks between processes: one training of an adapter, and no clean-up while shards are written.

The locks are the system's own (flock): they are released when their holder ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipstore.errors import ClipstoreError, ShardError, TrainingError
from clipstore.store.layout import Store


@contextmanager
def training_lock(store: Store, name: str) -> Iterator[None]:
    """Hold the adapter of a model for one training; its file lies beside the adapter, which --restart removes.

    Raises:
        TrainingError: another process trains it, with its number.
    """
    file = store.adapters / f".{name}.lock"
    taken = f"{name} is being trained by {{holder}} in {store.adapters / name}: wait for it to end, or stop it"
    with _held(file, fcntl.LOCK_EX, TrainingError, taken):
        yield


@contextmanager
def writing_shards(store: Store) -> Iterator[None]:
    """Held while shards are written and registered: many may at once, and `clipstore gc` removes nothing meanwhile.

    Raises:
        ShardError: a clean-up is under way.
    """
    taken = f"'clipstore gc' is removing files from {store.shards} (by {{holder}}): run this again when it has ended"
    with _held(store.root / ".shards.lock", fcntl.LOCK_SH, ShardError, taken):
        yield


@contextmanager
def removing_shards(store: Store) -> Iterator[None]:
    """Held while shards are removed.

    Raises:
        ShardError: shards are being written.
    """
    taken = f"{{holder}} is writing shards in {store.shards}: run this again when it has ended"
    with _held(store.root / ".shards.lock", fcntl.LOCK_EX, ShardError, taken):
        yield


@contextmanager
def _held(file: Path, kind: int, error: type[ClipstoreError], taken: str) -> Iterator[None]:
    """Hold a lock, with this process's number in its file; `taken` says who has it ({holder}) where another does."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as problem:
        message = f"cannot make the lock {file}: {problem.strerror}"
        raise error(message) from problem
    try:
        try:
            fcntl.flock(opened, kind | fcntl.LOCK_NB)
        except BlockingIOError as busy:
            raise error(taken.format(holder=_holder(opened))) from busy
        os.ftruncate(opened, 0)
        os.pwrite(opened, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(opened)


def _holder(opened: int) -> str:
    """Who wrote its number into a lock's file last."""
    number = os.pread(opened, 32, 0).decode(errors="replace").strip()
    return f"process {number}" if number.isdigit() else "another process"
