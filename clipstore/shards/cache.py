"""The local cache of objects: whole files, bounded in bytes, that several processes share.

A file under its final name is complete, and is compared with its SHA-256 when a process first reads it. Whoever reads a
file holds a shared lock on it (flock), without which it may be evicted: the least recently read files first. The
operating system releases locks when a process ends for any reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipstore.choices import size_in_bytes
from clipstore.errors import OptionError, ShardError, StorageError
from clipstore.objects import find_object, get_object
from clipstore.resources import user_cache
from clipstore.shards.scan import file_checksum
from clipstore.shards.stamps import FileStamp, file_stamp
from clipstore.shards.temporary import temporary_files

FOLDER, SIZE = "CLIPSTORE_CACHE", "CLIPSTORE_CACHE_SIZE"  # variables of the environment
DEFAULT_SIZE = "20GB"

_LOCK = ".lock"

# The files that had their checksum when this process compared it.
_compared: dict[Path, tuple[FileStamp, str]] = {}


def cache_folder() -> Path:
    """The folder of the cache: $CLIPSTORE_CACHE, else clipstore/ in the user's cache folder."""
    chosen = os.environ.get(FOLDER)
    return Path(chosen).absolute() if chosen else user_cache()


def cache_bytes() -> int:
    """The most bytes that the cache may have: $CLIPSTORE_CACHE_SIZE, by default 20GB.

    Raises:
        OptionError: it is no size.
    """
    text = os.environ.get(SIZE) or DEFAULT_SIZE
    try:
        return size_in_bytes(text)
    except OptionError as error:
        message = f"{SIZE}: {error}"
        raise OptionError(message) from error


@contextmanager
def cached_file(path: Path, url: str, checksum: str | None) -> Iterator[Path]:
    """The cached file of an object, at `path`, which stays there while the block runs. It is fetched if necessary.

    `checksum` is the registered SHA-256 of the object.

    Raises:
        ShardError: there is no such object, it has another checksum, or none is registered.
        StorageError: the storage cannot be used, or the cache not be written.
    """
    if checksum is None:
        message = f"no SHA-256 is registered for the shard {url}: run 'clipstore catalog rebuild'"
        raise ShardError(message)
    descriptor, fetched = None, False
    try:
        with _cache_errors():
            while (descriptor := _checked_lease(path, checksum)) is None:
                _fetch(path, url, checksum)
                fetched = True
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        yield path
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if fetched:  # what other processes were reading could not make room before
            make_room(0)


@contextmanager
def downloaded(url: str, path: Path) -> Iterator[Path]:
    """A copy of an object beside its place in the cache, which is removed when the block ends.

    Raises:
        ShardError: there is no such object.
        StorageError: as `cached_file`.
    """
    temporary = _temporary(path)
    try:
        _download(url, path, temporary)
        yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink()


def make_room(needed: int) -> None:
    """Evict the least recently read files until `needed` bytes more fit into the cache; files that are read stay.

    Raises:
        StorageError: the cache cannot be written.
    """
    root = cache_folder()
    with _cache_errors(), _locked(root):
        _remove_leftovers(root)
        files = sorted((status.st_atime_ns, status.st_size, file) for file, status in _files(root))
        excess = sum(size for _, size, _ in files) + needed - cache_bytes()
        for _, size, file in files:
            if excess <= 0:
                return
            if file.suffix != ".tmp" and _evict(file):
                excess -= size


def _fetch(path: Path, url: str, checksum: str) -> None:
    """Download an object to `path`, unless another process does so first."""
    temporary = _temporary(path)
    try:
        _download(url, path, temporary)
        actual = file_checksum(temporary)
        if actual != checksum:
            raise _damaged(url, temporary.stat().st_size, actual, checksum)
        with _locked(cache_folder()):
            if not path.exists():
                temporary.replace(path)
                _compared[path] = (file_stamp(path), actual)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _download(url: str, path: Path, temporary: Path) -> None:
    """Download an object to a temporary file beside its place in the cache.

    Raises:
        ShardError: there is no such object.
        StorageError: as `cached_file`.
    """
    found = find_object(url)
    if found is None:
        raise _missing(url)
    make_room(found.size)
    with _cache_errors():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            get_object(url, temporary)
        except FileNotFoundError as error:  # it was removed meanwhile
            raise _missing(url) from error


def _missing(url: str) -> ShardError:
    return ShardError(
        f"the shard {url} does not exist: 'clipstore verify --repair' unregisters it, then embed or import again"
    )


def _damaged(url: str, size: int, actual: str, checksum: str) -> ShardError:
    return ShardError(
        f"the shard {url} is damaged: its {size} bytes have the SHA-256 {actual[:12]}…, registered {checksum[:12]}…; "
        "'clipstore verify --repair' moves it to quarantine, then embed or import again"
    )


def _lease(path: Path) -> int | None:
    """A descriptor that holds a shared lock on a file, or None if there is no file."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # it was evicted between the two


def _checked_lease(path: Path, checksum: str) -> int | None:
    """As `_lease`, of a file with this checksum. One with another is removed: it was damaged on this disk."""
    descriptor = _lease(path)
    if descriptor is None or _has_checksum(path, checksum):
        return descriptor
    path.unlink(missing_ok=True)
    os.close(descriptor)
    return None


def _has_checksum(path: Path, checksum: str) -> bool:
    stamp = file_stamp(path)
    if _compared.get(path) == (stamp, checksum):
        return True
    actual = file_checksum(path)
    _compared[path] = (stamp, actual)
    return actual == checksum


def _evict(file: Path) -> bool:
    """Remove a file unless it is being read; whether it is gone."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):  # other processes remove theirs
                file = Path(folder) / name
                if name != _LOCK:
                    yield file, file.stat()


def _remove_leftovers(root: Path) -> None:
    for folder, _, _ in os.walk(root):
        for leftover in temporary_files(Path(folder)):
            leftover.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name for a thread's own copy, with the process id at the end as in `temporary.temporary_files`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{os.getpid()}.tmp")


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock for changing which files are in the cache."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _cache_errors() -> Iterator[None]:
    """Errors of the cache's disk, as one line with the remedy."""
    try:
        yield
    except OSError as error:
        root = cache_folder()
        free = f", {shutil.disk_usage(root).free // 2**20} MB free" if root.exists() else ""
        message = (
            f"the cache {root} cannot be used ({error.strerror}{free}): set {FOLDER} to a folder, {SIZE} to a size"
        )
        raise StorageError(message) from error
