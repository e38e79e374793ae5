"""The cache of objects: what is evicted, what is not, and what killed processes leave."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clipstore.errors import ShardError, StorageError
from clipstore.shards.cache import cache_bytes, cache_folder, cached_file, make_room

if TYPE_CHECKING:
    from object_server import ObjectServer

URL = "s3://bucket/shards/f/a.h5"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache of 1,000 bytes."""
    monkeypatch.setenv("CLIPSTORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CLIPSTORE_CACHE_SIZE", "1000")
    return tmp_path / "cache"


def add(cache: Path, name: str, *, read_at: int, size: int = 300) -> Path:
    """A cached file that was read at a time."""
    file = cache / "s3" / "bucket" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(name.encode() * (size // len(name)))
    os.utime(file, (read_at, 1))
    return file


def checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_folder_and_size_come_from_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (cache_folder(), cache_bytes()) == (cache, 1000)
    monkeypatch.delenv("CLIPSTORE_CACHE")
    monkeypatch.delenv("CLIPSTORE_CACHE_SIZE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert (cache_folder(), cache_bytes()) == (Path("/somewhere/clipstore"), 20 * 2**30)


def test_the_least_recently_read_files_are_evicted(cache: Path) -> None:
    first, second, third = (add(cache, name, read_at=at) for name, at in (("aa", 100), ("bb", 50), ("cc", 200)))
    make_room(100)
    assert all(file.exists() for file in (first, second, third))
    make_room(300)
    assert [file.exists() for file in (first, second, third)] == [True, False, True]
    with cached_file(first, URL, checksum(first)):  # which makes it the last that was read
        pass
    make_room(600)
    assert [file.exists() for file in (first, third)] == [True, False]


def test_a_file_that_is_read_is_not_evicted(cache: Path) -> None:
    file, other = add(cache, "aa", read_at=1), add(cache, "bb", read_at=2)
    with cached_file(file, URL, checksum(file)), cached_file(file, URL, checksum(file)):
        make_room(10**6)
        assert file.exists()
        assert not other.exists()
    make_room(10**6)
    assert not file.exists()


def test_temporary_files_of_killed_processes_are_removed(cache: Path) -> None:
    killed = add(cache, ".aa.h5.0123abcd.4194304.tmp", read_at=1)  # above the largest process number
    alive = add(cache, f".aa.h5.0123abcd.{os.getpid()}.tmp", read_at=1)
    make_room(0)
    assert (killed.exists(), alive.exists()) == (False, True)


def test_many_threads_read_more_than_fits(cache: Path, objects: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSTORE_CACHE", str(cache))
    contents = {f"{number}.h5": bytes([number]) * 400 for number in range(5)}
    for name, content in contents.items():
        objects.write(f"shards/f/{name}", content)

    def read(name: str) -> bool:
        url, digest = f"s3://bucket/shards/f/{name}", hashlib.sha256(contents[name]).hexdigest()
        with cached_file(cache / "s3/bucket/shards/f" / name, url, digest) as file:
            return file.read_bytes() == contents[name]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, list(contents) * 10))
    make_room(0)
    assert sum(file.stat().st_size for file in cache.rglob("*.h5")) <= 1000


def test_an_object_without_a_checksum_is_refused(cache: Path) -> None:
    with pytest.raises(ShardError, match="catalog rebuild"), cached_file(cache / "a.h5", URL, None):
        pass


def test_a_disk_without_space_is_one_line(objects: ObjectServer, tmp_path: Path) -> None:
    content = bytes(2**16)
    objects.write("shards/f/a.h5", content)
    program = f"""
import resource, sys
from pathlib import Path
from clipstore.shards.cache import cached_file
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # stands for a full disk
try:
    with cached_file(Path(sys.argv[1]), {URL!r}, {hashlib.sha256(content).hexdigest()!r}):
        pass
except Exception as error:
    print(type(error).__name__, error)
"""
    path = cache_folder() / "s3/bucket/shards/f/a.h5"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{StorageError.__name__} the cache {cache_folder()} cannot be used")
    assert not [file for file in cache_folder().rglob("*") if file.is_file() and file.name != ".lock"]
