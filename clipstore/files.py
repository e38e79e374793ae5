"""Reading files that users name (regular files only: a named pipe or a device would block), writing files whole, and
removing folders.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clipstore.objects import find_object, read_object, url_of

READERS = 32  # threads that read image files: on a network disk they wait far longer than they compute

MAX_IMAGE_BYTES = 2**30  # of an image file: the largest image that is decoded has some 700 MB without compression

# The ends of the names of image files, in lower case, where files are found by their names.
IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

FileReader = Callable[[Path], bytes]  # `read_image_file`, or a replacement for it

_NOT_IN_HOST = re.compile(r"[^\w-]")  # characters of a host's name that a temporary name would be split at, or path
_LONGEST_HOST = 30  # characters, so that the names of temporary files stay within what file systems allow
_OLD_SECONDS = 24 * 3600.0

_SYSTEM_ERROR = re.compile(r"(?:os error |errno )(\d+)", re.IGNORECASE)  # in messages of Rust and Arrow

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


def read_regular(path: Path, *, limit: int | None = None) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: it is not a regular file (see `check_regular`), is larger than `limit` bytes, or cannot be read.
    """
    check_regular(path)  # before the open, which may have side effects on a device
    with os.fdopen(os.open(path, _FLAGS), "rb") as file:
        status = os.fstat(file.fileno())  # the path may have changed since
        _check_mode(path, status.st_mode)
        if limit is not None and status.st_size > limit:
            raise _too_large(str(path), limit)
        return file.read() or b""  # None where there are no data yet, as in some files of /proc


def read_image_file(path: Path) -> bytes:
    """The bytes of an image file, which may be an object (see `objects.url_of`).

    Raises:
        OSError: it is not a regular file, is larger than `MAX_IMAGE_BYTES`, or cannot be read.
        StorageError: object storage cannot be used.
    """
    url = url_of(path)
    return read_object(url) if url else read_regular(path, limit=MAX_IMAGE_BYTES)


def is_image_file(path: Path) -> bool:
    """Whether a path is that of a file, or of an object (see `objects.url_of`).

    Raises:
        StorageError: object storage cannot be used.
    """
    url = url_of(path)
    return find_object(url) is not None if url else path.is_file()


def image_file_state(path: Path) -> tuple[int, int]:
    """The size of an image file, in bytes, and when it was written last, in nanoseconds since 1970.

    Raises:
        OSError: it is missing, is not a regular file, or is an object larger than `MAX_IMAGE_BYTES`.
        StorageError: object storage cannot be used.
    """
    url = url_of(path)
    if url is None:
        check_regular(path)
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    found = find_object(url)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    if found.size > MAX_IMAGE_BYTES:
        raise _too_large(url, MAX_IMAGE_BYTES)
    return found.size, found.modified_ns


def flush(path: Path) -> None:
    """Write a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def writer_name(process: int | None = None, host: str | None = None) -> str:
    """The part of a temporary name that states who writes: a process of a host, by default this one.

    Several hosts may write to one shared file system, where a process id alone says nothing.
    """
    host = socket.gethostname() if host is None else host
    return f"{os.getpid() if process is None else process}@{_NOT_IN_HOST.sub('-', host)[:_LONGEST_HOST]}"


def temporary_path(path: Path) -> Path:
    """The name under which this process writes a file before it is renamed to `path`, in the same folder."""
    return path.with_name(f".{path.name}.{writer_name()}.tmp")


def is_leftover(file: Path, writer: str) -> bool:
    """Whether the writer (see `writer_name`) of a temporary file has ended.

    A process of another host cannot be seen from here: its file is one that was left once it is a day old. False where
    the name states no process.
    """
    number, _, host = writer.partition("@")
    if not number.isdecimal():
        return False
    if host in ("", writer_name().partition("@")[2]):  # earlier versions wrote no host
        return not _is_running(int(number))
    with suppress(OSError):
        return time.time() - file.stat().st_mtime > _OLD_SECONDS
    return False


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files or folders (see `temporary_path`) that processes which have ended left of `path`."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        writer = leftover.name.removeprefix(f".{path.name}.").split(".")[0]
        if is_leftover(leftover, writer):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """A temporary file for the block to write, which is then flushed and renamed: `path` is old or new, never partial.

    On an error, also an interruption, the temporary file is removed and `path` is unchanged.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    temporary = temporary_path(path)
    try:
        remove_leftovers(path)
        yield temporary
        if flushed:
            flush(temporary)
        temporary.replace(path)
        if flushed:
            flush(path.parent)
    except OSError as error:
        raise named_error(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file by `whole_file`.

    Raises:
        OSError: it cannot be written; `path` is unchanged.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def named_error(error: Exception, path: Path) -> OSError:
    """The error of a failed write to `path`: that of a library as the system's, and either with the path's name."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror or os.strerror(error.errno), str(path))
    code = _SYSTEM_ERROR.search(str(error))
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])), str(path))
    return OSError(errno.EIO, str(error), str(path))


def check_removable(folder: Path) -> None:
    """Refuse a folder that is a symbolic link: what it points to is not removed.

    Raises:
        OSError: it is one.
    """
    if folder.is_symlink():
        reason = "it is a symbolic link, and what it points to is not removed: remove the link yourself"
        raise OSError(errno.EINVAL, reason, str(folder))


def remove_folder(folder: Path) -> None:
    """Remove a folder with its content, if it exists. Symbolic links in it are removed and not followed.

    Raises:
        OSError: it is a symbolic link itself, or cannot be removed.
    """
    check_removable(folder)
    if folder.exists():
        shutil.rmtree(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # signal 0 only checks that the process exists
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it exists and belongs to another user
    return True


def _too_large(path: str, limit: int) -> OSError:
    return OSError(errno.EFBIG, f"it is larger than {limit // 2**20} MB", path)


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        reason = _KINDS.get(stat.S_IFMT(mode), "it is not a regular file")
        raise OSError(errno.EINVAL, reason, str(path))
