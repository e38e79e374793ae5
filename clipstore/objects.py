"""Objects on object storage, by fsspec: reading, writing and listing them, with retries and errors of one line.

Credentials, region and endpoint are those of the libraries: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws and so on for
s3://, GOOGLE_APPLICATION_CREDENTIALS and so on for gs://. Each process makes its own clients.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from clipstore.errors import MissingExtraError, StorageError
from clipstore.network import check_online

_URL = re.compile(r"(s3|gs):/{1,2}(?=[^/])")
_EXTRAS = {"s3": "s3", "gs": "gcs"}
_ATTEMPTS = 7
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # seconds; the waits of all attempts add up to 6 to 11 s
_CONNECT_SECONDS, _READ_SECONDS = 10, 30
_SERVER_ERRORS = {errno.EBUSY, errno.EREMOTEIO, errno.EIO}  # as s3fs translates 5xx and "slow down"

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredObject:
    """An object: its size in bytes, when it was written last (nanoseconds since 1970), and its ETag if it has one."""

    size: int
    modified_ns: int
    etag: str


@dataclass(frozen=True)
class _Client:
    """A file system of fsspec, the errors that it raises, and how often `_retry` tries an operation of it."""

    filesystem: Any
    errors: tuple[type[Exception], ...]
    attempts: int


def url_of(path: Path | str) -> str | None:
    """The URL of object storage that a path stands for, or None: `Path("s3://bucket/a")` is "s3:/bucket/a"."""
    match = _URL.match(str(path))
    return f"{match[1]}://{str(path)[match.end() :]}" if match else None


def get_object(url: str, path: Path) -> None:
    """Download an object to a file.

    Raises:
        FileNotFoundError: there is no such object.
        StorageError: the bucket does not exist, access is denied, or the storage does not answer.
        OSError: the file cannot be written.
    """
    _retry(url, "read", lambda client: client.filesystem.get_file(url, str(path)))


def read_object(url: str) -> bytes:
    """The bytes of an object.

    Raises:
        FileNotFoundError, StorageError: as `get_object`.
    """
    return bytes(_retry(url, "read", lambda client: client.filesystem.cat_file(url)))


def put_object(path: Path, url: str) -> None:
    """Upload a file as an object, which is replaced if it exists.

    Raises:
        StorageError: the bucket does not exist, writing is denied, the storage does not answer, or has another size.
    """
    _retry(url, "write", lambda client: client.filesystem.put_file(str(path), url))
    stored = find_object(url)
    if stored is None or stored.size != path.stat().st_size:
        size = "is missing" if stored is None else f"has {stored.size} bytes"
        message = f"{url} {size} after {path.stat().st_size} bytes were written: run the same command again"
        raise StorageError(message)


def put_bytes(content: bytes, url: str) -> None:
    """Write an object.

    Raises:
        StorageError: as `put_object`.
    """
    _retry(url, "write", lambda client: client.filesystem.pipe_file(url, content))


def find_object(url: str) -> StoredObject | None:
    """The object at a URL, or None.

    Raises:
        StorageError: as `get_object`.
    """
    try:
        found = _retry(url, "read", lambda client: client.filesystem.info(url))
    except FileNotFoundError:
        return None
    return _stored(found) if found["type"] == "file" else None


def list_objects(url: str) -> dict[str, StoredObject]:
    """The objects below a URL, by their names relative to it.

    Raises:
        StorageError: as `get_object`.
    """
    listed = _retry(url, "list", lambda client: client.filesystem.find(url, detail=True))
    below = url.split("://", 1)[1].rstrip("/") + "/"
    return {name.removeprefix(below): _stored(info) for name, info in listed.items() if name.startswith(below)}


def remove_object(url: str) -> None:
    """Remove an object, if it exists.

    Raises:
        StorageError: as `put_object`.
    """
    with suppress(FileNotFoundError):
        _retry(url, "remove", lambda client: client.filesystem.rm_file(url))


def _stored(info: dict[str, Any]) -> StoredObject:
    modified = info.get("LastModified") or info.get("mtime") or info.get("updated")
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    nanoseconds = int(modified.timestamp() * 1e9) if isinstance(modified, datetime) else 0
    return StoredObject(
        size=info["size"], modified_ns=nanoseconds, etag=str(info.get("ETag") or info.get("etag") or "")
    )


# --- clients


_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_REGION")

# By protocol, process (the event loop of fsspec does not survive a fork) and settings in the environment.
_clients: dict[tuple[object, ...], _Client] = {}
_lock = threading.Lock()


def _client(url: str) -> _Client:
    protocol = url.split("://", 1)[0]
    check_online(f"object storage ({url})")
    key = (protocol, os.getpid(), *map(os.environ.get, _VARIABLES))
    with _lock:
        if key not in _clients:
            try:
                _clients[key] = _s3_client() if protocol == "s3" else _gcs_client()
            except ImportError as error:
                message = f"{url} needs the package {error.name}: pip install 'clipstore[{_EXTRAS[protocol]}]'"
                raise MissingExtraError(message) from error
        return _clients[key]


def _s3_client() -> _Client:
    """The libraries' own retries are off: `_retry` does them, with one count and one clock."""
    import aiohttp
    import s3fs
    from botocore.exceptions import BotoCoreError

    config = {"retries": {"total_max_attempts": 1}, "connect_timeout": _CONNECT_SECONDS, "read_timeout": _READ_SECONDS}
    filesystem = s3fs.S3FileSystem(config_kwargs=config, use_listings_cache=False, skip_instance_cache=True)
    filesystem.retries = 1
    return _Client(filesystem, (OSError, BotoCoreError, aiohttp.ClientError), attempts=_ATTEMPTS)


def _gcs_client() -> _Client:
    """The library retries itself, for a minute, and logs tracebacks."""
    import aiohttp
    import gcsfs
    from gcsfs.retry import ChecksumError, HttpError
    from google.auth.exceptions import GoogleAuthError

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    filesystem = gcsfs.GCSFileSystem(use_listings_cache=False, skip_instance_cache=True)
    return _Client(filesystem, (OSError, HttpError, ChecksumError, GoogleAuthError, aiohttp.ClientError), attempts=1)


# --- retries and errors


def _retry(url: str, verb: str, operation: Callable[[_Client], Result]) -> Result:
    """The result of an operation, which is repeated while its error is transient.

    Raises:
        FileNotFoundError: there is no such object, and there is the bucket.
        StorageError: every other error of the storage.
        OSError: that of a local file.
    """
    client = _client(url)
    for attempt in range(1, client.attempts + 1):
        try:
            return _attempt(client, url, operation)
        except client.errors as error:
            if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.errno in _LOCAL_ERRORS):
                raise
            if attempt == client.attempts or not _is_transient(error):
                raise _storage_error(url, verb, error) from error
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1))
        time.sleep(wait * random.uniform(0.5, 1))
    raise AssertionError


def _attempt(client: _Client, url: str, operation: Callable[[_Client], Result]) -> Result:
    """One attempt, which tells a missing object from a missing bucket."""
    try:
        return operation(client)
    except FileNotFoundError as error:
        if not _bucket_exists(client, url, error):
            bucket = "/".join(url.split("/")[:3])
            message = f"the bucket {bucket} does not exist: create it, or name another one"
            raise StorageError(message) from error
        raise FileNotFoundError(errno.ENOENT, "there is no such object", url) from error


_LOCAL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.ENOTDIR}  # of the local file


def _is_transient(error: Exception) -> bool:
    """Whether the same operation may succeed later: the server is busy, or a connection failed."""
    if isinstance(error, PermissionError):
        return False
    if isinstance(error, OSError) and not isinstance(error, TimeoutError | ConnectionError) and _is_builtin(error):
        return error.errno in _SERVER_ERRORS
    code = getattr(error, "code", None)  # of an HttpError of gcsfs
    if code is not None:
        return str(code) in {"408", "429"} or str(code).startswith("5")
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(names & _TRANSIENT)


_TRANSIENT = {
    "HTTPClientError",
    "ConnectionError",
    "ClientError",
    "ChecksumError",
    "IncompleteReadError",
    "TransportError",
}


def _is_builtin(error: Exception) -> bool:
    return type(error).__module__ == "builtins"


def _bucket_exists(client: _Client, url: str, error: FileNotFoundError) -> bool:
    """Whether the bucket of an object that does not exist does."""
    response = getattr(error.__cause__, "response", None) or {}  # of botocore; a HEAD has no code but 404
    code = response.get("Error", {}).get("Code")
    if code in {"NoSuchKey", "NoSuchBucket"}:
        return bool(code == "NoSuchKey")
    with suppress(PermissionError):  # who may read its objects need not see the bucket
        try:
            client.filesystem.info("/".join(url.split("/")[:3]))
        except FileNotFoundError:
            return False
    return True


def _storage_error(url: str, verb: str, error: Exception) -> StorageError:
    """The error of an operation that cannot be repeated, in one line with the remedy."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PermissionError) or str(getattr(error, "code", None)) in {"401", "403"}:
        remedy = "check the credentials and the policy of the bucket"
        return StorageError(f"access to {url} is denied, to {verb} it ({reason}): {remedy}")
    if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}:
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile" if url.startswith("s3:") else "log in"
        return StorageError(f"no credentials for {url} ({reason}): {remedy}")
    if _is_transient(error):
        endpoint = " and the endpoint (AWS_ENDPOINT_URL)" if url.startswith("s3:") else ""
        remedy = f"check the network{endpoint}, then run the same command again"
        return StorageError(f"cannot {verb} {url}, after several attempts ({reason}): {remedy}")
    return StorageError(f"cannot {verb} {url} ({reason}): check the URL and the settings of the storage")
