"""Writing a shard: complete under its final name, or absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from clipstore.errors import ClipstoreError, ShardError
from clipstore.files import flush, temporary_path
from clipstore.shards.description import ATTRIBUTES, FORMAT, FORMAT_VERSION, Shard, ShardInfo, checksum
from clipstore.shards.read import note_checked, read_shard
from clipstore.shards.temporary import temporary_files

Content = TypeVar("Content")

_KEY_BYTES = 64
_FORMAT_BYTES = 4632  # of a file without rows and failures: attributes and the metadata of HDF5


Publish = Callable[[Path, Path], None]  # takes the verified temporary file, and the path that it will have


def publish_nowhere(_temporary: Path, _path: Path) -> None:
    """The file itself is the shard: see `storage.LocalStorage`."""


def write_shard(
    path: Path,
    info: ShardInfo,
    values: NDArray[Any],
    contents: Sequence[str],
    failures: Mapping[str, str],
    *,
    publish: Publish = publish_nowhere,
) -> Shard:
    """Write rows (N, D), float16 or float32, with their content keys; a file at `path` is complete.

    The file is written under a temporary name in the same folder, flushed, read back and checked, published where the
    store has its shards (see `storage`), and then renamed.

    Raises:
        ShardError: it cannot be written, or reads back differently.
        StorageError: it cannot be published.
    """
    written = install(
        path,
        lambda: _file_bytes(info, values, contents, failures),
        lambda file: read_shard(file, check=True),
        publish,
    )
    shard = replace(written, path=path)
    note_checked(shard)
    return shard


def install(
    path: Path, content: Callable[[], bytes], read: Callable[[Path], Content], publish: Publish = publish_nowhere
) -> Content:
    """Write a file under a temporary name in the same folder, flush it, `read` it back, publish it, and rename it.

    Returns what `read` returned of the temporary file.

    Raises:
        ShardError: it cannot be written, or `read` raises it.
        StorageError: it cannot be published.
    """
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in temporary_files(path.parent, path.name):
            leftover.unlink(missing_ok=True)
        temporary.write_bytes(content())
        flush(temporary)
        result = read(temporary)
        publish(temporary, path)
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        message = f"cannot write the shard {path}: {error}"
        raise ShardError(message) from error
    except ClipstoreError:
        temporary.unlink(missing_ok=True)
        raise
    return result


def expected_bytes(rows: int, dim: int, dtype: str) -> int:
    """The size of the file of a shard without failures: its rows, their content keys, and what the format adds."""
    return rows * (dim * np.dtype(dtype).itemsize + _KEY_BYTES) + _FORMAT_BYTES


def _file_bytes(info: ShardInfo, values: NDArray[Any], contents: Sequence[str], failures: Mapping[str, str]) -> bytes:
    """The content of a shard's file, assembled in memory: on a full disk HDF5 itself would crash the process.

    Since version 1.10, HDF5 protects its metadata with checksums; without them, damage can crash or hang its reader.
    """
    with h5py.File("shard", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        _fill(file, info, values, contents, failures)
        file.flush()
        return bytes(file.id.get_file_image())


def _fill(
    file: h5py.File, info: ShardInfo, values: NDArray[Any], contents: Sequence[str], failures: Mapping[str, str]
) -> None:
    set_attribute(file, "format", FORMAT)
    set_attribute(file, "format_version", FORMAT_VERSION)
    for name, kind in ATTRIBUTES.items():
        set_attribute(file, name, kind(getattr(info, name)))
    set_attribute(file, "dim", values.shape[1])
    set_attribute(file, "dtype", str(values.dtype))
    set_attribute(file, "checksum", checksum([values], list(contents), dict(failures)))
    reasons = [reason.encode() for reason in failures.values()]
    file.create_dataset("values", data=values)
    file.create_dataset("content", data=np.array(contents, dtype="S64"))
    file.create_dataset("failed_content", data=np.array(list(failures), dtype="S64"))
    file.create_dataset("failed_reason", data=np.array(reasons, dtype=_text_type(*reasons)))


def _text_type(*texts: bytes) -> Any:
    """UTF-8 of fixed length: HDF5 stores texts of variable length in a heap, where damage can hang its reader."""
    return h5py.string_dtype("utf-8", max([1, *map(len, texts)]))


def set_attribute(file: h5py.File, name: str, value: str | int) -> None:
    """Set an attribute of a file: an integer, or UTF-8 of fixed length."""
    if isinstance(value, str):
        file.attrs.create(name, value.encode(), dtype=_text_type(value.encode()))
    else:
        file.attrs[name] = value
