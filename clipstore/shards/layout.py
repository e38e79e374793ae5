"""Opening a shard: its layout, types and sizes are checked before any row is read.

Other HDF5 files can name data in other files (external storage, links, virtual data sets), load filters as code, or
declare sizes that they do not contain. They are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipstore.errors import ShardError
from clipstore.files import check_regular
from clipstore.records import RegisteredShard
from clipstore.shards.description import ATTRIBUTES, FORMAT, FORMAT_VERSION, Shard, ShardInfo

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OLDEST_SUPERBLOCK = 2  # the first with a checksum; files of HDF5 1.10 have 3
_ROW_TYPES = {"float32": h5py.h5t.IEEE_F32LE, "float16": h5py.h5t.IEEE_F16LE}
_LARGEST_TEXT = 2**16  # bytes of an attribute
_KEY_BYTES = 64
_HEX_DIGITS = np.zeros(256, dtype=bool)
_HEX_DIGITS[list(b"0123456789abcdef")] = True

# The kinds and towers of the format, and the types of its own attributes.
_VALUES = {"kind": ("vectors", "features"), "tower": ("image", "text"), "dtype": tuple(_ROW_TYPES)}
_FORMAT_ATTRIBUTES: Mapping[str, type] = {"dim": int, "dtype": str, "checksum": str}


@dataclass(frozen=True, kw_only=True)
class OpenShard:
    """A shard whose layout is valid, while its file is open.

    Attributes:
        values: the rows, which slice like an array (N, D).
        offset: the position of the rows in the file; None unless they are contiguous.
    """

    path: Path
    shard: Shard
    values: h5py.Dataset
    offset: int | None


@contextmanager
def open_shard(path: Path) -> Iterator[OpenShard]:
    """Open a shard after checking all of its layout, and read its description.

    Raises:
        ShardError: the file is missing, is not a shard, is of a newer format, or cannot be read. Also raised for errors
            of HDF5 in the block.
    """
    with open_file(path) as file:
        attributes = _read_attributes(path, file)
        size = path.stat().st_size
        rows = read_dataset(path, file, "values", size, rank=2)
        _check_rows(path, rows, attributes)
        shard = _describe(path, file, attributes, size)
        if len(shard.contents) != rows.shape[0]:
            raise invalid(path, f"it has {rows.shape[0]} rows and {len(shard.contents)} content keys")
        contiguous = rows.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
        yield OpenShard(
            path=path, shard=shard, values=h5py.Dataset(rows), offset=rows.get_offset() if contiguous else None
        )


def read_registered(path: Path) -> tuple[RegisteredShard, NDArray[np.bytes_]]:
    """What the catalog registers of a shard, and the content keys (N,) of its rows, which are not checked.

    For a file that is known to have the bytes that `open_shard` has checked before.

    Raises:
        ShardError: as `open_shard`.
    """
    with open_file(path) as file:
        attributes = _read_attributes(path, file)
        size = path.stat().st_size
        rows = read_dataset(path, file, "values", size, rank=2)
        names = ("kind", "tower", "fingerprint", "dim", "dtype", "checksum")
        shard = RegisteredShard(path=path, items=rows.shape[0], **{name: attributes[name] for name in names})
        return shard, _key_array(path, file, "content", size)


@contextmanager
def open_rows(path: Path) -> Iterator[h5py.Dataset]:
    """Open the rows (N, D) of a shard after checking their layout and type.

    Raises:
        ShardError: as `open_shard`.
    """
    with open_file(path) as file:
        rows = read_dataset(path, file, "values", path.stat().st_size, rank=2)
        if not any(rows.get_type() == row_type for row_type in _ROW_TYPES.values()):
            raise invalid(path, "its rows are not little-endian float32 or float16")
        yield h5py.Dataset(rows)


def invalid(path: Path, reason: str) -> ShardError:
    """The error for a file that is not a shard of the documented format."""
    return ShardError(
        f"the shard {path} is not valid: {reason}; 'clipstore verify --repair' moves it to quarantine, then embed, "
        "import or rerank again"
    )


def unreadable(path: Path, error: Exception) -> ShardError:
    """The error for a file that the system or HDF5 cannot read."""
    reason = (getattr(error, "strerror", None) or str(error)) if path.exists() else "it does not exist"
    return ShardError(
        f"cannot read the shard {path} ({reason}): delete the file if it exists, and embed or rerank again"
    )


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file of a format whose metadata have checksums.

    Raises:
        ShardError: the file is missing, or cannot be read. Also raised for errors of HDF5 in the block.
    """
    try:
        _check_header(path)
        with h5py.File(path, "r", locking=False) as file:  # immutable: no lock needed
            yield file
    except (OSError, KeyError, ValueError, RuntimeError, OverflowError) as error:  # raised by HDF5 and h5py for damage
        raise unreadable(path, error) from error


def _check_header(path: Path) -> None:
    """Refuse files of HDF5 formats whose metadata have no checksum: damage can crash or hang their reader."""
    check_regular(path)
    with path.open("rb") as file:
        head = file.read(len(_SIGNATURE) + 1)
    if not head.startswith(_SIGNATURE) or len(head) == len(_SIGNATURE):
        message = "it is not an HDF5 file"
        raise ValueError(message)
    if head[-1] < _OLDEST_SUPERBLOCK:
        message = f"{path} is an HDF5 file, but not a clipstore shard: its format is older than HDF5 1.10"
        raise ShardError(message)


def _read_attributes(path: Path, file: h5py.File) -> dict[str, Any]:
    """All attributes of the format, of the documented types."""
    check_format(path, file, FORMAT, FORMAT_VERSION, ("a clipstore shard", "shard format"))
    types = {**ATTRIBUTES, **_FORMAT_ATTRIBUTES}
    attributes = {name: read_attribute(path, file, name, kind) for name, kind in types.items()}
    for name, values in _VALUES.items():
        if attributes[name] not in values:
            raise invalid(path, f"its attribute {name} is {attributes[name]!r}, not {' or '.join(values)}")
    if attributes["normalised"] != (attributes["kind"] == "vectors"):
        raise invalid(path, f"its {attributes['kind']} state normalised = {attributes['normalised']}")
    return attributes


def check_format(path: Path, file: h5py.File, name: str, newest: int, words: tuple[str, str]) -> None:
    """Refuse a file of another format than `name`, or of a version above `newest`.

    `words` are what a file of the format is called, and the format.

    Raises:
        ShardError: the message has these words.
    """
    if not h5py.h5a.exists(file.id, b"format") or read_attribute(path, file, "format", str) != name:
        message = f"{path} is an HDF5 file, but not {words[0]}"
        raise ShardError(message)
    version = read_attribute(path, file, "format_version", int)
    if version > newest:
        message = f"{path} has {words[1]} {version}; this clipstore reads up to {newest}: install a newer one"
        raise ShardError(message)


def read_attribute(path: Path, file: h5py.File, name: str, kind: type) -> Any:
    """A scalar attribute: UTF-8 of fixed length, an integer, or a boolean."""
    if not h5py.h5a.exists(file.id, name.encode()):
        raise invalid(path, f"it has no attribute {name}")
    attribute = h5py.h5a.open(file.id, name.encode())
    stored = attribute.get_type()
    number = isinstance(stored, h5py.h5t.TypeIntegerID | h5py.h5t.TypeEnumID)
    text = isinstance(stored, h5py.h5t.TypeStringID) and not stored.is_variable_str()
    scalar = attribute.get_space().get_simple_extent_type() == h5py.h5s.SCALAR
    if not scalar or not (text if kind is str else number) or stored.get_size() > _LARGEST_TEXT:
        raise invalid(path, f"its attribute {name} is not of the documented type")
    value = np.empty((), dtype=attribute.dtype)
    attribute.read(value)
    return _text(value.item()) if kind is str else kind(value)


def read_dataset(path: Path, file: h5py.File, name: str, size: int, *, rank: int) -> h5py.h5d.DatasetID:
    """An HDF5 dataset whose data are in the file itself, uncompressed and complete."""
    key = name.encode()
    if key not in file.id:
        raise invalid(path, f"it has no dataset {name}")
    if file.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
        raise invalid(path, f"{name} is a link to another place")
    if h5py.h5o.get_info(file.id, key).type != h5py.h5o.TYPE_DATASET:
        raise invalid(path, f"{name} is not a dataset")
    dataset = h5py.h5d.open(file.id, key)
    properties = dataset.get_create_plist()
    if properties.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):  # before the space: it opens files
        raise invalid(path, f"{name} is neither contiguous nor chunked")
    if properties.get_external_count() or properties.get_nfilters():
        raise invalid(path, f"{name} is in another file or goes through a filter")
    if dataset.get_space().get_simple_extent_type() != h5py.h5s.SIMPLE or len(dataset.shape) != rank:
        raise invalid(path, f"{name} does not have {rank} dimension{'s' if rank > 1 else ''}")
    declared = prod(dataset.shape) * dataset.get_type().get_size()
    if declared > min(size, dataset.get_storage_size()):
        raise invalid(path, f"{name} declares {declared:,} bytes, which the file of {size:,} bytes does not contain")
    return dataset


def _check_rows(path: Path, rows: h5py.h5d.DatasetID, attributes: Mapping[str, Any]) -> None:
    dtype = attributes["dtype"]
    if rows.get_type() != _ROW_TYPES[dtype]:
        raise invalid(path, f"its rows are not little-endian {dtype}")
    if attributes["kind"] == "features" and dtype != "float32":
        raise invalid(path, "its features are not float32")
    if rows.shape[1] != attributes["dim"]:
        raise invalid(path, f"its rows have {rows.shape[1]} columns, and its attribute dim is {attributes['dim']}")


def _describe(path: Path, file: h5py.File, attributes: dict[str, Any], size: int) -> Shard:
    contents = read_keys(path, file, "content", size)
    failed = read_keys(path, file, "failed_content", size)
    reasons = read_dataset(path, file, "failed_reason", size, rank=1)
    stored = reasons.get_type()
    if not isinstance(stored, h5py.h5t.TypeStringID) or stored.is_variable_str():
        raise invalid(path, "failed_reason is not text of fixed length")
    texts = list(map(_text, h5py.Dataset(reasons)[:].tolist()))
    if len(texts) != len(failed):
        raise invalid(path, f"it has {len(failed)} failed items and {len(texts)} reasons")
    return Shard(
        path=path,
        info=ShardInfo(**{name: attributes[name] for name in ATTRIBUTES}),
        contents=contents,
        failures=dict(zip(failed, texts, strict=True)),
        dim=attributes["dim"],
        dtype=attributes["dtype"],
        checksum=attributes["checksum"],
        size=size,
    )


def read_keys(path: Path, file: h5py.File, name: str, size: int) -> list[str]:
    """The content keys in a dataset: SHA-256 in hex, without duplicates."""
    keys = _key_array(path, file, name, size)
    if not _HEX_DIGITS[keys.view(np.uint8)].all():
        row = int(np.argmin(_HEX_DIGITS[keys.view(np.uint8).reshape(-1, _KEY_BYTES)].all(axis=1)))
        raise invalid(path, f"row {row} of {name} is not a SHA-256 in hex")
    listed: list[str] = keys.astype(f"U{_KEY_BYTES}").tolist()
    if len(set(listed)) < len(listed):
        raise invalid(path, f"{name} has a key twice")
    return listed


def _key_array(path: Path, file: h5py.File, name: str, size: int) -> NDArray[np.bytes_]:
    """The content keys in a dataset, of which only the length is checked."""
    dataset = read_dataset(path, file, name, size, rank=1)
    stored = dataset.get_type()
    if not isinstance(stored, h5py.h5t.TypeStringID) or stored.is_variable_str() or stored.get_size() != _KEY_BYTES:
        raise invalid(path, f"{name} is not text of {_KEY_BYTES} bytes")
    keys: NDArray[np.bytes_] = h5py.Dataset(dataset)[:].astype(f"S{_KEY_BYTES}", copy=False)
    return keys


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
