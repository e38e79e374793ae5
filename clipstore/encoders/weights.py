"""Digests of the tensors in safetensors files, read without torch."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from clipstore.errors import ModelError

_LONGEST_HEADER = 100_000_000  # bytes, as the safetensors package reads
_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error)

TensorDigest = tuple[str, str, bytes]  # name, "dtype shape", SHA-256 of the values


def tensor_digests(file: Path) -> tuple[TensorDigest, ...]:
    """Name, dtype and shape, and digest of every tensor in a safetensors file.

    Raises:
        ModelError: the file cannot be read, or is not a safetensors file.
    """
    try:
        status = file.stat()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise ModelError(message) from error
    return _cached_digests(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)  # models with the same base share its files: each is read once per run
def _cached_digests(file: Path, _size: int, _modified_ns: int) -> tuple[TensorDigest, ...]:
    return tuple(_read_digests(file))


def tensor_shapes(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The dtype and the shape of every tensor in a safetensors file, by name; only its header is read.

    Raises:
        ModelError: the file cannot be read, or is not a safetensors file.
    """
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(min(length, _LONGEST_HEADER)))
        tensors = {name: header[name] for name in header.keys() - {"__metadata__"}}
        return {name: (str(tensor["dtype"]), tuple(map(int, tensor["shape"]))) for name, tensor in tensors.items()}
    except _READ_ERRORS as error:
        raise _unreadable(file, error) from error


def _read_digests(file: Path) -> Iterator[TensorDigest]:
    """Read the tensors of a safetensors file, in the order of their names.

    The format (huggingface.co/docs/safetensors): eight bytes with the length of the header, a JSON header with the byte
    range [begin, end) of each tensor, then the values. The safetensors package reads bfloat16 with torch only.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + min(length, _LONGEST_HEADER)])
            with memoryview(data) as view, view[8 + length :] as values:
                for name in sorted(header.keys() - {"__metadata__"}):
                    begin, end = header[name]["data_offsets"]
                    if not 0 <= begin <= end <= len(values):
                        message = f"{name} is beyond its end"
                        raise ValueError(message)
                    with values[begin:end] as tensor:
                        digest = hashlib.sha256(tensor).digest()
                    yield name, f"{header[name]['dtype']} {header[name]['shape']}", digest
    except _READ_ERRORS as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> ModelError:
    return ModelError(f"{file} is not a safetensors file, or is cut short: {error}")
