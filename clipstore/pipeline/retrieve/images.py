"""The image files of queries: read from disk, or downloaded."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from clipstore.errors import ImageError
from clipstore.files import READERS, read_image_file
from clipstore.pipeline.retrieve.queries import Query

_MAX_BYTES = 64 * 2**20  # of a downloaded image
_TIMEOUT = 30.0  # seconds, for the whole download


def load_images(queries: Iterable[Query], folder: Path) -> list[tuple[Query, str | None]]:
    """The queries with the path and content key of their images, each with the reason why it cannot be used, or None.

    Downloads are written to `folder`. Texts are returned unchanged.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_load, folder=folder), queries))


def _load(query: Query, folder: Path) -> tuple[Query, str | None]:
    if query.kind == "sentence":
        return query, None
    try:
        data = read_image_file(query.path) if query.path else _download(query.name)
        content = hashlib.sha256(data).hexdigest()
        path = query.path or folder / content
        if not query.path:
            path.write_bytes(data)
    except ImageError as error:
        return query, str(error)
    except OSError as error:
        return query, f"the image file cannot be read: {error.strerror}"
    return replace(query, path=path, content=content), None


def _download(address: str) -> bytes:
    """The bytes at an address. Only HTTP and HTTPS are opened, also after a redirect.

    Raises:
        ImageError: the download fails, is too large, or takes too long.
    """
    deadline = time.monotonic() + _TIMEOUT
    data = bytearray()
    try:
        request = Request(address, headers={"User-Agent": f"clipstore/{version('clipstore')}"})
        with _http_opener().open(request, timeout=_TIMEOUT) as response:
            while part := response.read1(2**16):
                data += part
                if len(data) > _MAX_BYTES:
                    message = f"the download is larger than {_MAX_BYTES // 2**20} MB"
                    raise ImageError(message)
                if time.monotonic() > deadline:
                    message = f"the download timed out after {_TIMEOUT:.0f} s"
                    raise ImageError(message)
    except (OSError, HTTPException, ValueError) as error:  # urllib raises ValueError for a bad address
        message = f"the download failed: {' '.join(str(error).split()) or type(error).__name__}"
        raise ImageError(message) from error
    return bytes(data)


def _http_opener() -> OpenerDirector:
    """An opener for HTTP and HTTPS only: urllib's default one opens files and FTP, too."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        UnknownHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        HTTPRedirectHandler(),
        HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
