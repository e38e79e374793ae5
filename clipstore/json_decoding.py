"""Decode JSON into checked records, from any number of threads.

msgspec inspects a type when it is first decoded, and crashes if two threads do this at once (seen with version 0.22).
So a decoder is made under a lock, once for each type.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, TypeVar

import msgspec

Content = TypeVar("Content")

_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
_lock = Lock()


def decoder_of(kind: type[Content]) -> msgspec.json.Decoder[Content]:
    """The decoder of a type."""
    with _lock:
        if kind not in _decoders:
            _decoders[kind] = msgspec.json.Decoder(kind)
        return _decoders[kind]


def decode_json(data: bytes | msgspec.Raw, kind: type[Content]) -> Content:
    """The record of type `kind` in some JSON.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError: it is not JSON, or has other content.
    """
    return decoder_of(kind).decode(data)


def convert_record(values: dict[str, Any], kind: type[Content]) -> Content:
    """The record of type `kind` with some values.

    Raises:
        msgspec.ValidationError: a value is not of its type, or out of range.
    """
    decoder_of(kind)  # inspects the type
    return msgspec.convert(values, kind)
