"""The tensors of safetensors files, each as a digest: read without torch."""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from clipstore.errors import ModelError

Tensor = tuple[str, str, bytes]  # name, "dtype shape", SHA-256 of the values


def tensor_digests(file: Path) -> tuple[Tensor, ...]:
    """Name, dtype and shape, and digest of every tensor of a safetensors file.

    Raises:
        ModelError: it cannot be read, or is not a safetensors file.
    """
    try:
        status = file.stat()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise ModelError(message) from error
    return _digests(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)  # models of one base share its files: each is read once in a run
def _digests(file: Path, _size: int, _modified_ns: int) -> tuple[Tensor, ...]:
    return tuple(_read_tensors(file))


def _read_tensors(file: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, read.

    The format (huggingface.co/docs/safetensors): eight bytes of header length, a JSON header with a
    [begin, end) of bytes for each tensor, the values. Read here, since its own reader knows no bfloat16 without torch.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            with memoryview(data) as view, view[8 + length :] as values:
                for name in sorted(header.keys() - {"__metadata__"}):
                    begin, end = header[name]["data_offsets"]
                    if not 0 <= begin <= end <= len(values):
                        message = f"{name} is beyond its end"
                        raise ValueError(message)  # noqa: TRY301  (reported below, with the file)
                    with values[begin:end] as own:
                        yield name, f"{header[name]['dtype']} {header[name]['shape']}", hashlib.sha256(own).digest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        message = f"{file} is not a safetensors file, or is cut short: {error}"
        raise ModelError(message) from error
