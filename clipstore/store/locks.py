"""Locks between processes: one training per adapter, and shard writing excludes `clipstore gc`.

The locks are the operating system's (flock), which releases them when the holding process ends for any reason.
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
    """Lock the adapter of a model for one training.

    The lock file is in the parent of the adapter folder, because --restart removes that folder.

    Raises:
        TrainingError: another process is training the model. The message has its process id.
        BadNameError: the name cannot be that of a folder.
    """
    folder = store.adapter(name)
    file = folder.with_name(f".{name}.lock")
    conflict = f"{name} is being trained by {{holder}} in {folder}: wait for it to end, or stop it"
    with _lock(file, fcntl.LOCK_EX, TrainingError, conflict):
        yield


@contextmanager
def shard_write_lock(store: Store) -> Iterator[None]:
    """A shared lock for writing and registering shards: it allows any number of writers and excludes `clipstore gc`.

    Raises:
        ShardError: a clean-up is running.
    """
    conflict = f"'clipstore gc' is removing files of {store.root} ({{holder}}): run this again after it ends"
    with _lock(store.root / ".shards.lock", fcntl.LOCK_SH, ShardError, conflict):
        yield


@contextmanager
def shard_removal_lock(store: Store) -> Iterator[None]:
    """An exclusive lock for removing shards.

    Raises:
        ShardError: shards are being written.
    """
    conflict = f"{{holder}} is writing shards of {store.root}: run this again after it ends"
    with _lock(store.root / ".shards.lock", fcntl.LOCK_EX, ShardError, conflict):
        yield


@contextmanager
def cluster_lock(store: Store) -> Iterator[None]:
    """An exclusive lock for embedding on a cluster: a second run would give the nodes the same plans.

    Raises:
        ShardError: another process has it.
    """
    conflict = f"{{holder}} embeds into {store.root} on a cluster already: wait for it to end, or stop it"
    with _lock(store.root / ".cluster.lock", fcntl.LOCK_EX, ShardError, conflict):
        yield


@contextmanager
def _lock(file: Path, mode: int, error: type[ClipstoreError], conflict: str) -> Iterator[None]:
    """Hold a lock file and write this process's id to it.

    `conflict` is the error message if {holder} holds the lock.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as failure:
        message = f"cannot create the lock {file}: {failure.strerror}"
        raise error(message) from failure
    try:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError as failure:
            raise error(conflict.format(holder=_holder(descriptor))) from failure
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """The process whose id was written to a lock file last."""
    number = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    return f"process {number}" if number.isdigit() else "another process"
