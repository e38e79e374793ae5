"""Where the shards of a store are: in its folder, or as objects below a URL with a local cache.

A shard is named by its file relative to the store, such as "shards/FINGERPRINT/image-0123456789abcdef.h5"; score
shards are in "scores". Both storages have the same operations. They are plain data, which worker processes receive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from clipstore.errors import ShardError
from clipstore.files import flush, whole_file
from clipstore.objects import find_object, get_object, list_objects, put_object, remove_object
from clipstore.records import RegisteredShard
from clipstore.shards.cache import cache_folder, cached_file, downloaded, make_room
from clipstore.shards.scan import file_checksum
from clipstore.shards.temporary import temporary_files

FOLDERS = ("shards", "scores")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file or an object in a storage.

    Attributes:
        size: in bytes.
        modified_ns: when it was written last, in nanoseconds since 1970.
        is_file, is_link: whether it is, or a link leads to, a regular file; whether it is a symbolic link.
    """

    size: int
    modified_ns: int
    is_file: bool = True
    is_link: bool = False


@dataclass(frozen=True)
class LocalStorage:
    """The shards are files in the folder of the store, `root`."""

    root: Path

    def path(self, file: str) -> Path:
        """Where a shard is on this machine, or will be."""
        return self.root / file

    def location(self, file: str) -> str:
        """Where a shard is, for messages."""
        return str(self.path(file))

    def locate(self, shard: RegisteredShard, file: str) -> RegisteredShard:
        """A shard as this process reads it."""
        return replace(shard, path=self.path(file), url=None)

    def files(self, folder: str) -> dict[str, StoredFile]:
        """All files below a folder such as "shards", in order."""
        listed = {}
        for parent, _, names in sorted(os.walk(self.root / folder)):
            for name in sorted(names):
                with suppress(FileNotFoundError):  # another process removed it
                    path = Path(parent) / name
                    listed[str(path.relative_to(self.root))] = _stored_file(path)
        return listed

    def leftovers(self, folder: str) -> list[str]:
        """The temporary files below a folder that killed processes left."""
        folders = [Path(parent) for parent, _, _ in sorted(os.walk(self.root / folder))]
        return [str(file.relative_to(self.root)) for parent in folders for file in temporary_files(parent)]

    def missing(self, files: Iterable[str]) -> set[str]:
        """Those of some files that do not exist."""
        return {file for file in files if not self.path(file).is_file()}

    @contextmanager
    def reading(self, file: str, _checksum: str | None) -> Iterator[Path]:
        """A file of this machine with the bytes of a shard, whose SHA-256 is known, while the block runs."""
        yield self.path(file)

    @contextmanager
    def original(self, file: str) -> Iterator[Path]:
        """A file of this machine with the bytes that are stored now, while the block runs."""
        yield self.path(file)

    def publish(self, temporary: Path, path: Path) -> None:
        """Store a verified temporary file; `write.install` renames it to `path`, which makes it the shard."""

    def remove(self, file: str) -> None:
        """Remove a file, if it exists, and its folder if it is empty then."""
        path = self.path(file)
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()

    def set_aside(self, file: str, target: Path) -> None:
        """Move a file to a path outside of the storage."""
        path = self.path(file)
        path.rename(target)
        for folder in (target.parent, path.parent):
            flush(folder)


@dataclass(frozen=True)
class ObjectStorage:
    """The shards are objects below `url`. What was read or written is in the cache of the machine.

    Every method may raise StorageError: the storage cannot be used.
    """

    url: str

    @property
    def root(self) -> Path:
        """The folder of the cache for this URL."""
        return cache_folder() / self.url.replace("://", "/")

    def path(self, file: str) -> Path:
        """As `LocalStorage.path`: in the cache."""
        return self.root / file

    def location(self, file: str) -> str:
        """As `LocalStorage.location`: the URL of an object."""
        return f"{self.url}/{file}"

    def locate(self, shard: RegisteredShard, file: str) -> RegisteredShard:
        """As `LocalStorage.locate`."""
        return replace(shard, path=self.path(file), url=self.location(file))

    def files(self, folder: str) -> dict[str, StoredFile]:
        """As `LocalStorage.files`."""
        listed = list_objects(self.location(folder))
        return {
            f"{folder}/{name}": StoredFile(size=found.size, modified_ns=found.modified_ns)
            for name, found in sorted(listed.items())
        }

    def leftovers(self, _folder: str) -> list[str]:
        """None: an object is complete. The cache removes its own."""
        return []

    def missing(self, files: Iterable[str]) -> set[str]:
        """As `LocalStorage.missing`: each folder is listed once."""
        names = set(files)
        folders = {file.rpartition("/")[0] for file in names}
        return names - {file for folder in folders for file in self.files(folder)}

    @contextmanager
    def reading(self, file: str, checksum: str | None) -> Iterator[Path]:
        """As `LocalStorage.reading`: from the cache, by the checksum.

        Raises:
            ShardError: there is no such object, or it has another checksum.
        """
        with cached_file(self.path(file), self.location(file), checksum) as path:
            yield path

    @contextmanager
    def original(self, file: str) -> Iterator[Path]:
        """As `LocalStorage.original`: a copy that is removed when the block ends, whatever the cache has.

        Raises:
            ShardError: there is no such object. One of the block that names the copy names the object.
        """
        with downloaded(self.location(file), self.path(file)) as copy:
            try:
                yield copy
            except ShardError as error:
                raise ShardError(str(error).replace(str(copy), self.location(file))) from error

    def publish(self, temporary: Path, path: Path) -> None:
        """Put a verified file as the object of the shard that will be cached at `path`, if it is not there already."""
        url = self.location(shard_file(path))
        if not self._is_stored(url, temporary):
            put_object(temporary, url)
        make_room(0)

    def _is_stored(self, url: str, file: Path) -> bool:
        found = find_object(url)
        if found is None or found.size != file.stat().st_size:
            return False
        with downloaded(url, self.path(shard_file(Path(url)))) as copy:
            return file_checksum(copy) == file_checksum(file)

    def remove(self, file: str) -> None:
        """As `LocalStorage.remove`; the cached file too."""
        remove_object(self.location(file))
        self.path(file).unlink(missing_ok=True)

    def set_aside(self, file: str, target: Path) -> None:
        """As `LocalStorage.set_aside`: the object is downloaded, then removed."""
        with whole_file(target) as temporary:
            get_object(self.location(file), temporary)
        self.remove(file)


Storage = LocalStorage | ObjectStorage


def shard_file(path: Path) -> str:
    """The name of a shard, relative to the store, of any path to it: its last three parts."""
    return "/".join(path.parts[-3:])


def is_shard_name(file: str) -> bool:
    """Whether a file has the name of a shard: FOLDER/FINGERPRINT/NAME.h5."""
    parts = file.split("/")
    hidden = any(part.startswith(".") for part in parts)
    return len(parts) == 3 and parts[0] in FOLDERS and parts[2].endswith(".h5") and not hidden


def _stored_file(path: Path) -> StoredFile:
    own = path.lstat()
    is_link = stat.S_ISLNK(own.st_mode)
    is_file = path.is_file() if is_link else stat.S_ISREG(own.st_mode)
    return StoredFile(size=own.st_size, modified_ns=own.st_mtime_ns, is_file=is_file, is_link=is_link)
