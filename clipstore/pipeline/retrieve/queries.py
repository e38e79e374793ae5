"""What `clipstore retrieve` is asked with: photos, folders of them, addresses on the web, and sentences."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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

from clipstore.captions import is_blank
from clipstore.errors import ImageError, QueryError
from clipstore.files import read_regular
from clipstore.inference.prefetch import READERS

PHOTOS = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_WEB = ("http://", "https://")
_LARGEST = 64 * 2**20  # bytes of a photo from the web
_SECONDS = 30.0  # that fetching one may take


@dataclass(frozen=True, kw_only=True)
class Query:
    """One photo or sentence to ask with.

    Attributes:
        name: as it was given, and for a photo of a folder its path.
        kind: "image" or "sentence".
        path: where the photo lies; None for a sentence, and for an address that was not fetched yet.
        content: the SHA-256 of the photo's bytes, when it was read.
    """

    name: str
    kind: str
    path: Path | None = None
    content: str | None = None


def queries(words: Iterable[str], sentences: Iterable[str] = (), *, allow_network: bool = False) -> list[Query]:
    """What words mean: photos by path, folder or address, else sentences; each once. `sentences` are nothing else.

    Raises:
        QueryError: there is no such photo, a folder has none, an address may not be fetched, or nothing is said.
    """
    told = [query for word in words for query in _meant(word, allow_network=allow_network)]
    told += [_sentence(text) for text in sentences]
    if not told:
        message = "nothing to ask with: give photos, folders of them, or sentences"
        raise QueryError(message)
    return list(dict.fromkeys(told))


def _meant(word: str, *, allow_network: bool) -> Iterator[Query]:
    path = _there(word)
    if word.lower().startswith(_WEB):
        if not allow_network:
            message = f"{word} is on the network: --allow-network lets this command fetch it"
            raise QueryError(message)
        yield Query(name=word, kind="image")
    elif path and path.is_dir():
        yield from _of_folder(path)
    elif path and path.is_file():
        yield _photo(path)
    elif path:
        message = f"{_shown(word)} is neither a photo nor a folder"
        raise QueryError(message)
    elif word.lower().endswith(PHOTOS) or ("/" in word and not any(map(str.isspace, word))):
        message = f"no photo at {_shown(word)}: mend the path; if it is a sentence, ask with --text"
        raise QueryError(message)
    else:
        yield _sentence(word)


def _there(word: str) -> Path | None:
    """The file or folder that a word names, if there is one."""
    try:
        return Path(word) if word.strip() and Path(word).exists() else None
    except (OSError, ValueError):  # longer than a name can be, for one
        return None


def _of_folder(folder: Path) -> list[Query]:
    found = [_photo(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in PHOTOS and not path.is_dir()]
    if not found:
        message = f"no photo in {_shown(str(folder))}: nothing there ends in {', '.join(PHOTOS)}"
        raise QueryError(message)
    return found


def _photo(path: Path) -> Query:
    return Query(name=_shown(str(path)), kind="image", path=path)


def _sentence(text: str) -> Query:
    if is_blank(text):
        message = "an empty sentence asks for nothing: leave it out"
        raise QueryError(message)
    return Query(name=_shown(text), kind="sentence")


def _shown(word: str) -> str:
    """A word without the bytes that are not UTF-8, which nothing could print."""
    return word.encode(errors="replace").decode()


def looked_at(asked: Iterable[Query], folder: Path) -> list[tuple[Query, str | None]]:
    """The queries with their photos' contents, or what is wrong; what is on the web is brought into `folder`."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_looked_at, folder=folder), asked))


def _looked_at(query: Query, folder: Path) -> tuple[Query, str | None]:
    if query.kind == "sentence":
        return query, None
    try:
        photo = read_regular(query.path) if query.path else _fetched(query.name)
        content = hashlib.sha256(photo).hexdigest()
        path = query.path or folder / content
        if not query.path:
            path.write_bytes(photo)
    except ImageError as error:
        return query, str(error)
    except OSError as error:
        return query, f"the photo cannot be read: {error.strerror}"
    return replace(query, path=path, content=content), None


def _fetched(address: str) -> bytes:
    """The bytes at an address, by HTTP alone, wherever it leads to.

    Raises:
        ImageError: there are none, too many, or they take too long.
    """
    web = OpenerDirector()
    for handler in (
        ProxyHandler(),
        UnknownHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPDefaultErrorHandler(),
        HTTPRedirectHandler(),
        HTTPErrorProcessor(),
    ):
        web.add_handler(handler)
    until = time.monotonic() + _SECONDS
    photo = bytearray()
    try:
        request = Request(address, headers={"User-Agent": f"clipstore/{version('clipstore')}"})
        with web.open(request, timeout=_SECONDS) as answer:
            while part := answer.read1(2**16):
                photo += part
                if len(photo) > _LARGEST:
                    message = f"it is larger than {_LARGEST // 2**20} MB"
                    raise ImageError(message)
                if time.monotonic() > until:
                    message = f"it takes longer than {_SECONDS:.0f} s to fetch"
                    raise ImageError(message)
    except (OSError, HTTPException, ValueError) as error:  # a ValueError is urllib's word for a bad address
        message = f"it cannot be fetched: {' '.join(str(error).split()) or type(error).__name__}"
        raise ImageError(message) from error
    return bytes(photo)
