"""Reading shards, each compared with its checksum and with what the catalog registered."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import ShardError
from clipstore.hints import embed_command
from clipstore.records import IMPORTED, RegisteredShard
from clipstore.shards.cache import cached_file
from clipstore.shards.description import Shard
from clipstore.shards.layout import open_rows, open_shard, read_registered
from clipstore.shards.scan import ShardScan, file_checksum, scan_shard
from clipstore.shards.stamps import FileStamp, file_stamp


def read_shard(path: Path, *, check: bool = False) -> Shard:
    """The description of a shard, without its rows. With `check`, the whole file is read and checked.

    The result of a check has the checksums of the file and of each row.

    Raises:
        ShardError: the file is missing, not a shard, of a newer format, or damaged. With `check`, also if its rows do
            not match its checksum, are not finite, or are vectors that are not of unit length.
    """
    if check:
        return _checked_shard(scan_shard(path, file=True, rows=True))
    with open_shard(path) as opened:
        return opened.shard


def check(registered: RegisteredShard) -> None:
    """Compare a shard with its checksum and with what the catalog registered.

    The first call reads the whole file, about 1 ms of CPU time per megabyte, and more if it is not the file that was
    registered. A later call of this process costs one `stat`, unless the file was written since.

    Raises:
        ShardError: the file is missing, cannot be read, is damaged, or is not the one that was registered.
    """
    with _checking.setdefault(registered.path, Lock()):  # other threads wait instead of reading the same file
        now = file_stamp(registered.path)
        known = _checked.get(registered.path)
        if known is None or known.stamp != now:
            unchanged = unchanged_keys(registered) is not None
            shard = registered if unchanged else _checked_shard(scan_shard(registered.path)).registered()
            known = _checked[registered.path] = _Checked(now, shard)
    differences = registered_differences(known.shard, registered)
    if differences:
        message = (
            f"the shard {registered.path} is not the one that the catalog has registered: {', '.join(differences)}; "
            "'clipstore verify --repair' moves it to quarantine, then embed or import again"
        )
        raise ShardError(message)


def unchanged_keys(registered: RegisteredShard) -> NDArray[np.bytes_] | None:
    """The content keys (N,) of a shard whose file has the registered checksum; None: it may be another one.

    The file was checked before it was registered: of equal bytes, nothing but the checksum is computed.

    Raises:
        ShardError: the file is missing or cannot be read.
    """
    if registered.file_checksum is None:
        return None
    if registered.url is None and file_checksum(registered.path) != registered.file_checksum:  # else `local_file` did
        return None
    shard, keys = read_registered(registered.path)
    return keys if shard == registered else None


def registered_differences(shard: RegisteredShard, registered: RegisteredShard) -> list[str]:
    """What differs between a shard's file and the catalog, as messages name it."""
    if shard == registered:
        return []
    values = {item.name: (getattr(shard, item.name), getattr(registered, item.name)) for item in fields(registered)}
    return [
        f"{name} {_short(file)}, registered {_short(catalog)}"
        for name, (file, catalog) in values.items()
        if file != catalog and name not in ("path", "file_checksum", "url")
    ]


def clear_checks() -> None:
    """Compare every shard with its checksum again when it is next read, as a new process does."""
    _checked.clear()


def note_checked(shard: Shard) -> None:
    """Note that this process has compared a shard with its checksum."""
    _checked[shard.path] = _Checked(file_stamp(shard.path), shard.registered())


def read_rows(path: Path, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The given rows of a shard, in the given order and the stored type, without comparing the checksum.

    Raises:
        ShardError: the file is missing or cannot be read, or has no such row.
    """
    with open_rows(path) as values:
        unique, places = np.unique(rows, return_inverse=True)
        low, high = int(unique[0]), int(unique[-1]) + 1
        if low < 0 or high > len(values):
            message = (
                f"the catalog names row {high - 1 if high > len(values) else low} of the shard {path}, which has "
                f"{len(values)} rows: run 'clipstore verify'"
            )
            raise ShardError(message)
        # HDF5 selects single rows slowly: unless they are sparse, reading the whole range is faster.
        if len(unique) * 8 < high - low:
            return np.asarray(values[unique])[places]
        return np.asarray(values[low:high])[rows - low]


@dataclass(frozen=True, slots=True)
class _Checked:
    """A shard that matched its checksum when its file had this stamp."""

    stamp: FileStamp
    shard: RegisteredShard


# The shards that matched their checksums in this process.
_checked: dict[Path, _Checked] = {}
_checking: dict[Path, Lock] = {}


def check_file_unchanged(registered: RegisteredShard, before: FileStamp) -> None:
    """Compare a shard's file with an earlier stamp. An object was compared with its registered SHA-256 as it was read.

    Raises:
        ShardError: it was replaced or changed.
    """
    if registered.url is None and file_stamp(registered.path) != before:
        path = registered.path
        message = f"the shard {path} changed while it was read: nothing was stored; embed again, then run this again"
        raise ShardError(message)


def gather(shards: Sequence[RegisteredShard], which: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Row `rows[i]` of the shard `shards[which[i]]` for each i, as (N, D); float32 unless every row is float16.

    Each shard is compared with its checksum and with what the catalog registered first (see `check`). One on object
    storage stays in the cache while it is read, so that one file at a time has to fit there.

    Raises:
        StorageError: object storage, or the cache, cannot be used.
        ShardError: a file is missing, cannot be read, is damaged, or is not the one that was registered.
    """
    used = np.unique(which).tolist()
    places = [np.flatnonzero(which == number) for number in used]
    parts = [_gather_from(shards[number], rows[place]) for number, place in zip(used, places, strict=True)]
    gathered = np.empty((len(rows), parts[0].shape[1]), dtype=np.result_type(*parts))
    for place, part in zip(places, parts, strict=True):
        gathered[place] = part
    return gathered


def _gather_from(shard: RegisteredShard, rows: NDArray[np.int64]) -> NDArray[Any]:
    with local_file(shard) as path:
        check(shard)
        return read_rows(path, rows)


@contextmanager
def local_file(shard: RegisteredShard) -> Iterator[Path]:
    """The file of a shard on this machine, which for one on object storage is in the cache while the block runs.

    Raises:
        ShardError, StorageError: as `cache.cached_file`.
    """
    if shard.url is None:
        yield shard.path
    else:
        with cached_file(shard.path, shard.url, shard.file_checksum) as path:
            yield path


def _checked_shard(scan: ShardScan) -> Shard:
    """The shard of a scan.

    Raises:
        ShardError: the scan found a problem.
    """
    if scan.problem is None:
        return scan.shard
    info = scan.shard.info
    if info.family == IMPORTED:
        remedy = f"'clipstore import {shlex.quote(info.model)}' to import them again"
    else:
        remedy = f"'{embed_command(info.model)}' to compute them again"
    message = f"the shard {scan.shard.path} is damaged: {scan.problem}; delete the file and run {remedy}"
    raise ShardError(message)


def _short(value: object) -> str:
    """A value in a message; the beginning of a digest."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
