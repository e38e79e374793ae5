"""The file of a catalog: its path, its header, its creation under a temporary name, and damaged ones that are kept."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipstore.catalog.damage import REBUILD
from clipstore.errors import CatalogError
from clipstore.files import check_regular, flush, remove_leftovers, temporary_path
from clipstore.waiting import BusyWait

_INTERPRETED = "?\\"  # in the path of a database DuckDB reads '?' as the start of options, and '\\' as '/'
_HEADER_BYTES = 3 * 4096  # of a DuckDB file; the first ones are written first, and the magic number is in them
_MAGIC, _MAGIC_OFFSET = b"DUCK", 8
_POLL_SECONDS = 0.05


def check_store_path(folder: Path) -> None:
    """Refuse the path of a store that DuckDB would read as another one.

    Raises:
        CatalogError: it contains a question mark, a backslash or bytes that are not UTF-8.
    """
    wrong = next((character for character in _INTERPRETED if character in str(folder)), None)
    if wrong:
        message = f"a store cannot be in {str(folder)!r}: DuckDB does not open paths with {wrong!r}: rename the folder"
        raise CatalogError(message)
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        message = f"a store cannot be in {str(folder)!r}: the path is not UTF-8: rename the folder"
        raise CatalogError(message) from error


def has_header_size(file: Path) -> bool:
    """Whether a file is large enough for the header of a DuckDB file; it is not opened.

    Raises:
        OSError: it is not a regular file.
    """
    check_regular(file)
    return file.stat().st_size >= _HEADER_BYTES


def check_header(file: Path) -> None:
    """Refuse a file that is no complete DuckDB file, without opening it as one.

    DuckDB would download an extension for a file of another database, and wait for ever for a named pipe.

    Raises:
        CatalogError: it is incomplete or of another kind; the message says what to do.
        OSError: it is not a regular file, or cannot be read.
    """
    check_regular(file)
    with file.open("rb") as opened:
        header = opened.read(_HEADER_BYTES)
    if header[_MAGIC_OFFSET:].startswith(_MAGIC) and len(header) == _HEADER_BYTES:
        return
    if len(header) < _HEADER_BYTES and len(header) % 4096 == 0:
        message = (
            f"the catalog {file} is incomplete ({len(header)} bytes), as an interrupted first ingest of an earlier "
            "version left it: remove this file and ingest again; if the store had content, run "
            "'clipstore catalog rebuild'"
        )
    else:
        message = f"the catalog {file} is damaged: it is not a DuckDB file: {REBUILD}"
    raise CatalogError(message)


@contextmanager
def new_catalog_file(path: Path) -> Iterator[Path]:
    """The file in which to create a catalog: a temporary one that is renamed to `path` when the block ends.

    So a catalog under its final name is complete. While another process creates it, this waits, and then yields `path`.

    Raises:
        CatalogError: another process is creating the catalog for too long.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _creation_lock(path):
        if path.exists():
            yield path
            return
        with _installed_file(path) as file:
            yield file


@contextmanager
def replaced_catalog_file(path: Path) -> Iterator[Path]:
    """As `new_catalog_file`, in place of a catalog, which is kept under another name (see `keep_aside`).

    Raises:
        CatalogError: another process creates the catalog, or has it open, for too long.
    """
    with _creation_lock(path):
        if path.exists():
            _wait_until_closed(path, BusyWait(f"the catalog {path}"))
        with _installed_file(path) as file:
            yield file


@contextmanager
def _installed_file(path: Path) -> Iterator[Path]:
    """A temporary file that gets its name when the block ends, and is removed if it fails."""
    remove_leftovers(path)
    temporary = temporary_path(path)
    try:
        yield temporary
        install(temporary, path)
    finally:
        for file in (temporary, log_file(temporary)):
            file.unlink(missing_ok=True)


def _wait_until_closed(path: Path, wait: BusyWait) -> None:
    """Wait until no other process has a database open. DuckDB, which could fail on a damaged file, does not open it."""
    with path.open("r+b") as file:
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kind of lock that DuckDB holds
            except (BlockingIOError, PermissionError) as error:
                wait("held by another process: wait for it to end, or stop it", error)
                time.sleep(_POLL_SECONDS)
            else:
                return


def install(file: Path, path: Path) -> None:
    """Rename a complete and closed database to `path`. What is there, and its log, is kept under another name."""
    if log_file(file).exists():
        message = f"the catalog {path} could not be written completely; free disk space, and run the same command again"
        raise CatalogError(message)
    keep_aside(path)
    flush(file)
    file.rename(path)
    flush(path.parent)


def keep_aside(path: Path) -> Path | None:
    """Rename a catalog and its log to catalog.duckdb.damaged-N. Returns the new path, or None if there was nothing."""
    present = [file for file in (path, log_file(path)) if os.path.lexists(file)]
    if not present:
        return None
    number = 1
    while any(os.path.lexists(file) for file in _aside(path, number)):
        number += 1
    target, log_target = _aside(path, number)
    for file in present:  # the log last: without it, DuckDB would open the catalog as it was before
        file.rename(target if file == path else log_target)
    flush(path.parent)
    return target


def kept_catalogs(path: Path) -> set[Path]:
    """The former catalogs that `keep_aside` renamed."""
    return {file for file in path.parent.glob(f"{path.name}.damaged-*") if file.suffix != ".wal"}


def log_file(path: Path) -> Path:
    """The write-ahead log of a database, which DuckDB writes beside it."""
    return path.with_name(f"{path.name}.wal")


def _aside(path: Path, number: int) -> tuple[Path, Path]:
    target = path.with_name(f"{path.name}.damaged-{number}")
    return target, log_file(target)


@contextmanager
def _creation_lock(path: Path) -> Iterator[None]:
    """Hold the operating system's lock for the creation of a catalog; it ends with the process."""
    wait = BusyWait(f"the catalog {path}")
    descriptor = os.open(path.with_name(".catalog.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                wait("being created by another process: wait for it to end, or stop it", error)
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
