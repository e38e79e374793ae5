"""The elements of large arrays of a JSON file, in blocks: neither the file nor the array is in memory as a whole."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from clipstore.json_decoding import decoder_of

CHUNK = 8 * 2**20  # bytes that are read at once
_TAIL = 2**16  # bytes at the end of a chunk in which an element ends
_ATTEMPTS = 4  # places that are tried as the end of an element, or of an array: a string may contain such a place

_KEY = re.compile(rb'\s*"([^"\\]*)"\s*:\s*')
_NEXT = re.compile(rb"\s*([,}])")
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_END = re.compile(rb"\}\s*\]")
_EMPTY = re.compile(rb"\[\s*\]")
# A string or another scalar; a string, or a character that opens or closes a value.
_SCALAR = re.compile(rb'"(?:[^"\\]|\\.)*"|[^][{},\s"]+', re.DOTALL)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_DEPTHS = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}


class UnusualFileError(Exception):
    """The file is not of the plain form that is read in blocks: it is to be read as a whole."""


def read_blocks(file: Path, kinds: Mapping[str, type]) -> Iterator[tuple[str, list[Any]]]:
    """Key and elements of each block of the arrays `kinds` of the object in a file, in the order of the file.

    `kinds` has the type of the elements, which are objects. Elements are decoded as msgspec does it, which skips the
    fields that the type does not name.

    Raises:
        UnusualFileError: the file is not JSON, lacks an array or has it twice, or cannot be read in blocks.
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        reader = _Reader(stream)
        seen: set[str] = set()
        while (key := reader.key()) is not None:
            if key in seen:
                raise UnusualFileError
            seen.add(key)
            if key in kinds:
                yield from ((key, block) for block in reader.elements(kinds[key]))
            else:
                reader.skip()
    if not seen.issuperset(kinds):
        raise UnusualFileError


class _Reader:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._data = stream.read(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
        if not self._data.startswith(b"{"):
            raise UnusualFileError
        self._data = b"," + self._data[1:]  # each key follows a comma

    def key(self) -> str | None:
        """The next key, whose value follows; None: the object has ended, and with it the file."""
        self._fill()
        following = _NEXT.match(self._data)
        if not following:
            raise UnusualFileError
        if following[1] == b"}":
            if self._data[following.end() :].strip() or self._stream.read(1):
                raise UnusualFileError
            return None
        key = _KEY.match(self._data, following.end())
        if not key:
            raise UnusualFileError
        self._data = self._data[key.end() :]
        return key[1].decode(errors="replace")

    def skip(self) -> None:
        """Skip a value that is in memory as a whole."""
        self._fill()
        end = scalar.end() if (scalar := _SCALAR.match(self._data)) else self._end_of_value()
        try:
            msgspec.json.decode(self._data[:end])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnusualFileError from error
        self._data = self._data[end:]

    def _end_of_value(self) -> int:
        depth = 0
        for token in _TOKEN.finditer(self._data):
            depth += _DEPTHS.get(token[0], 0)
            if not depth:
                return token.end()
        raise UnusualFileError

    def elements(self, kind: type) -> Iterator[list[Any]]:
        """The elements of an array, in blocks."""
        self._fill()
        if empty := _EMPTY.match(self._data):
            self._data = self._data[empty.end() :]
            return
        if not self._data.startswith(b"["):
            raise UnusualFileError
        decode: Callable[[bytes], list[Any]] = decoder_of(list[kind]).decode  # type: ignore[valid-type]
        self._data = self._data[1:]
        while True:
            block = self._block(decode) if len(self._data) >= CHUNK // 2 else None
            if block is None:
                yield self._last_block(decode)
                return
            yield block
            self._fill()

    def _block(self, decode: Callable[[bytes], list[Any]]) -> list[Any] | None:
        """The elements before the end of one near the end of the data; None: the array seems to end before."""
        places = list(_BETWEEN.finditer(self._data, len(self._data) - _TAIL))
        for place in places[: -1 - _ATTEMPTS : -1]:
            block = _decoded(decode, b"[" + self._data[: place.start() + 1] + b"]")
            if block is not None:
                self._data = self._data[place.end() - 1 :]
                return block
        return None

    def _last_block(self, decode: Callable[[bytes], list[Any]]) -> list[Any]:
        for place in islice(_END.finditer(self._data), _ATTEMPTS):
            block = _decoded(decode, b"[" + self._data[: place.end()])
            if block is not None:
                self._data = self._data[place.end() :]
                return block
        raise UnusualFileError

    def _fill(self) -> None:
        """Have at least a chunk in memory, unless the file has ended."""
        while len(self._data) < CHUNK and (data := self._stream.read(CHUNK)):
            self._data += data


def _decoded(decode: Callable[[bytes], list[Any]], data: bytes) -> list[Any] | None:
    """The elements; None: the data is cut in the middle of something, or is malformed."""
    try:
        return decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
