"""Reading files that users name (regular files only: a named pipe or a device would block), and flushing to disk."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

READERS = 32  # threads that read image files: on a network disk they wait far longer than they compute

FileReader = Callable[[Path], bytes]  # `read_regular`, or a replacement for it

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # where the system has the last two
_KINDS = {
    stat.S_IFIFO: "it is a named pipe, not a regular file",
    stat.S_IFCHR: "it is a device, not a regular file",
    stat.S_IFBLK: "it is a device, not a regular file",
    stat.S_IFSOCK: "it is a socket, not a regular file",
}


def check_regular(path: Path) -> None:
    """Refuse a path that is not a regular file, without opening it.

    Raises:
        OSError: it is a named pipe, a device, a socket or a folder, or it does not exist; `strerror` says which.
    """
    _check_mode(path, path.stat().st_mode)


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it is not a regular file (see `check_regular`), or cannot be read.
    """
    check_regular(path)  # before the open, which may have side effects on a device
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        _check_mode(path, os.fstat(file.fileno()).st_mode)  # the path may have changed since
        return file.read()


def flush(path: Path) -> None:
    """Write a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        reason = _KINDS.get(stat.S_IFMT(mode), "it is not a regular file")
        raise OSError(errno.EINVAL, reason, str(path))
