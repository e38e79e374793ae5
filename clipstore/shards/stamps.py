"""Stamps that tell a file from one that replaced it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Distinguishes a file from one that replaced it. All None: there is no file."""

    inode: int | None
    size: int | None
    modified_ns: int | None


def file_stamp(path: Path) -> FileStamp:
    """The current stamp of a file."""
    try:
        status = path.stat()
    except OSError:
        return FileStamp(None, None, None)
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)
