"""The queries of `clipstore retrieve`: image files, folders of them, web addresses, and texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipstore.captions import is_blank
from clipstore.errors import QueryError
from clipstore.files import IMAGE_SUFFIXES
from clipstore.network import check_online

_WEB = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class Query:
    """One image or text to search with.

    Attributes:
        name: the argument as given; for an image of a folder, its path.
        kind: "image", or "sentence" for a text.
        path: the image file; None for a text, and for a web address that is not downloaded yet.
        content: the SHA-256 of the image file's bytes, once it is read.
    """

    name: str
    kind: Literal["image", "sentence"]
    path: Path | None = None
    content: str | None = None


def parse_queries(
    arguments: Iterable[str | Path], texts: Iterable[str] = (), *, allow_network: bool = False
) -> list[Query]:
    """Unique queries from arguments (an image file, a folder, a web address, else a text) and from `texts`.

    A Path is never a text.

    Raises:
        QueryError: an image file does not exist, a folder has no image files, an address needs `allow_network`, a text
            is empty, or there are no queries.
        OfflineError: an address is given, and all network is forbidden.
    """
    queries = [
        query
        for argument in arguments
        for query in _parse(str(argument), text_allowed=isinstance(argument, str), allow_network=allow_network)
    ]
    queries += [_text_query(text) for text in texts]
    if not queries:
        message = "no queries: give image files, folders of them, or texts"
        raise QueryError(message)
    return list(dict.fromkeys(queries))


def _parse(argument: str, *, text_allowed: bool, allow_network: bool) -> Iterator[Query]:
    path = _existing(argument)
    if argument.lower().startswith(_WEB):
        if not allow_network:
            message = f"{argument} is on the network: add --allow-network to download it"
            raise QueryError(message)
        check_online(f"downloading {argument}")
        yield Query(name=argument, kind="image")
    elif path and path.is_dir():
        yield from _folder_queries(path)
    elif path and path.is_file():
        yield _image_query(path)
    elif path:
        message = f"{_printable(argument)} is neither an image file nor a folder"
        raise QueryError(message)
    elif not text_allowed or _looks_like_path(argument):
        message = f"no image file at {_printable(argument)}: check the path; to search for this text, use --text"
        raise QueryError(message)
    else:
        yield _text_query(argument)


def _existing(argument: str) -> Path | None:
    """The file or folder that an argument names, if it exists."""
    try:
        return Path(argument) if argument.strip() and Path(argument).exists() else None
    except (OSError, ValueError):  # longer than a file name can be, for example
        return None


def _looks_like_path(argument: str) -> bool:
    """Whether an argument ends like an image file, or has a slash and no white space."""
    return argument.lower().endswith(IMAGE_SUFFIXES) or ("/" in argument and not any(map(str.isspace, argument)))


def _folder_queries(folder: Path) -> list[Query]:
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    if not files:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        message = f"no image file in {_printable(str(folder))}: no file name there ends in {suffixes}"
        raise QueryError(message)
    return [_image_query(path) for path in files]


def _image_query(path: Path) -> Query:
    return Query(name=_printable(str(path)), kind="image", path=path)


def _text_query(text: str) -> Query:
    if is_blank(text):
        message = "empty text query: give it words, or leave it out"
        raise QueryError(message)
    return Query(name=_printable(text), kind="sentence")


def _printable(text: str) -> str:
    """A text with a replacement for bytes that are not UTF-8, which cannot be printed."""
    return text.encode(errors="replace").decode()
