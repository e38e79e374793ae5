"""Shards: one immutable HDF5 file each, written once, checked, and never changed. docs/shard-format.md is the law.

Alone imports h5py.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipstore.errors import ShardError
from clipstore.files import flush
from clipstore.records import ShardKind, TowerName

FORMAT = "clipstore-shard"
FORMAT_VERSION = 1

_IMPORTED = "imported"  # the family of vectors that no model here can compute again
_BLOCK_BYTES = 2**22  # read at once for a checksum

# Every attribute that a shard carries beside the format's own, and how it is read back.
_ATTRIBUTES: Mapping[str, type] = {
    "kind": str,
    "tower": str,
    "fingerprint": str,
    "model": str,
    "family": str,
    "precision": str,
    "normalised": bool,
    "cut": int,
    "software": str,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """What a shard says of itself.

    `kind` is "vectors" or "features"; `cut` counts texts longer than the model reads.
    """

    kind: ShardKind
    tower: TowerName
    fingerprint: str
    model: str
    family: str
    precision: str
    normalised: bool
    cut: int
    software: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A complete shard on disk.

    Attributes:
        contents: the content key of each row, in order.
        failures: content key -> why the item has no row.
    """

    path: Path
    info: ShardInfo
    contents: list[str]
    failures: dict[str, str]
    dim: int
    dtype: str
    checksum: str
    size: int


def normalize(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Rows (N, D) scaled to unit length in float64, then rounded to `dtype`; zero rows stay zero."""
    wide = np.asarray(values, dtype=np.float64)
    # Scaled by a power of two, which rounds nothing, so that the squares of no value overflow.
    wide = np.ldexp(wide, -np.frexp(np.abs(wide).max(axis=1, keepdims=True, initial=0))[1])
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray((wide / np.where(lengths > 0, lengths, 1)).astype(dtype))


def software(**versions: str) -> str:
    """The versions of what made a shard, as the JSON text that its attribute holds."""
    return json.dumps(versions, sort_keys=True)


def write_shard(
    path: Path, info: ShardInfo, values: NDArray[Any], contents: Sequence[str], failures: Mapping[str, str]
) -> Shard:
    """Write rows (N, D), float16 or float32, under their content keys; complete once `path` exists.

    The file is written under a temporary name beside it, flushed to disk, read back and checked, and renamed.

    Raises:
        ShardError: it cannot be written, or does not read back as it was written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary.write_bytes(_image(info, values, contents, failures))
        flush(temporary)
        shard = read_shard(temporary, check=True)
        temporary.replace(path)
        flush(path.parent)
        _checked[path] = file_stamp(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        message = f"cannot write the shard {path}: {error}"
        raise ShardError(message) from error
    return Shard(**{name: getattr(shard, name) for name in Shard.__slots__ if name != "path"}, path=path)


def read_shard(path: Path, *, check: bool = False) -> Shard:
    """What a shard says of itself, without its rows; with `check`, the rows are read against their checksum.

    Raises:
        ShardError: the file is missing, not a shard, of a newer format, or damaged.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # immutable: nobody to lock out
            shard = _describe(path, file)
            if check and shard.checksum != _checksum(_blocks(file["values"]), shard.contents, shard.failures):
                raise _damaged(shard)
            return shard
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # HDF5 and h5py have all of these for damage
        raise _unreadable(path, error) from error


def check(path: Path) -> None:
    """Compare a shard with its checksum, unless this process did so since its file was last written.

    Reads the whole file once, at about 1 ms of processor time a megabyte; a later call costs one `stat`.

    Raises:
        ShardError: the file is missing, cannot be read, or its vectors are not those that were written.
    """
    now = file_stamp(path)
    if _checked.get(path) != now:
        read_shard(path, check=True)
        _checked[path] = now


def clear_checks() -> None:
    """Have every shard compared with its checksum again when it is next read, as in a new process."""
    _checked.clear()


def read_rows(path: Path, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The given rows of a shard, in the order asked, in the type stored, without looking at its checksum.

    Raises:
        ShardError: the file is missing or cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # immutable: nobody to lock out
            values = file["values"]
            unique, places = np.unique(rows, return_inverse=True)
            low, high = int(unique[0]), int(unique[-1]) + 1
            # HDF5 picks single rows slowly: unless they are sparse, reading all between is quicker.
            if len(unique) * 8 < high - low:
                return np.asarray(values[unique])[places]
            return np.asarray(values[low:high])[rows - low]
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # HDF5 and h5py have all of these for damage
        raise _unreadable(path, error) from error


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells a file from another that took its place: None for all where there is none."""

    inode: int | None
    size: int | None
    modified_ns: int | None


# The stamps of files that agreed with their checksums in this process.
_checked: dict[Path, FileStamp] = {}


def file_stamp(path: Path) -> FileStamp:
    """The stamp of a file as it is now."""
    try:
        status = path.stat()
    except OSError:
        return FileStamp(None, None, None)
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


def check_unchanged(path: Path, before: FileStamp) -> None:
    """Hold a shard's file to an earlier stamp.

    Raises:
        ShardError: it is another file by now, or was written to.
    """
    if file_stamp(path) != before:
        message = f"the shard {path} changed while it was read: nothing was kept; embed again, then run this again"
        raise ShardError(message)


def gather(paths: Sequence[Path], which: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Row `rows[i]` of the shard `paths[which[i]]` for each i, as (N, D); float32 unless every row is float16.

    No row is returned of a shard that does not agree with its checksum (see `check`).

    Raises:
        ShardError: a file is missing, cannot be read, or is damaged.
    """
    for one in np.unique(which).tolist():
        check(paths[one])
    parts = [(np.flatnonzero(which == one), paths[one]) for one in np.unique(which)]
    read = [(places, read_rows(path, rows[places])) for places, path in parts]
    gathered = np.empty((len(rows), read[0][1].shape[1]), dtype=np.result_type(*(part for _, part in read)))
    for places, part in read:
        gathered[places] = part
    return gathered


def _image(info: ShardInfo, values: NDArray[Any], contents: Sequence[str], failures: Mapping[str, str]) -> bytes:
    """A shard's file, made in memory: on a full disk HDF5 itself would end in a crash of the process.

    From version 1.10 on the format has checksums of its own for all that describes the values: without them, damage
    there can crash or hang HDF5's reader.
    """
    with h5py.File("shard", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        _fill(file, info, values, contents, failures)
        file.flush()
        return bytes(file.id.get_file_image())


def _fill(
    file: h5py.File, info: ShardInfo, values: NDArray[Any], contents: Sequence[str], failures: Mapping[str, str]
) -> None:
    _set(file, "format", FORMAT)
    _set(file, "format_version", FORMAT_VERSION)
    for name, kind in _ATTRIBUTES.items():
        _set(file, name, kind(getattr(info, name)))
    _set(file, "dim", values.shape[1])
    _set(file, "dtype", str(values.dtype))
    _set(file, "checksum", _checksum([values], list(contents), dict(failures)))
    reasons = [reason.encode() for reason in failures.values()]
    file.create_dataset("values", data=values)
    file.create_dataset("content", data=np.array(contents, dtype="S64"))
    file.create_dataset("failed_content", data=np.array(list(failures), dtype="S64"))
    file.create_dataset("failed_reason", data=np.array(reasons, dtype=_text_type(*reasons)))


def _sweep(path: Path) -> None:
    """Remove what killed processes left of this shard. Two that live may write it at once: their rows are the same."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            os.kill(int(leftover.name.split(".")[-2]), 0)  # signal 0 asks whether the process is there
        except ProcessLookupError:
            leftover.unlink(missing_ok=True)
        except PermissionError:
            pass  # it is there, and another user's


def _text_type(*texts: bytes) -> Any:
    """UTF-8 of fixed length: texts of varying length lie in HDF5's heap, and damage there can hang its reader."""
    return h5py.string_dtype("utf-8", max([1, *map(len, texts)]))


def _set(file: h5py.File, name: str, value: str | int) -> None:
    if isinstance(value, str):
        file.attrs.create(name, value.encode(), dtype=_text_type(value.encode()))
    else:
        file.attrs[name] = value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _describe(path: Path, file: h5py.File) -> Shard:
    if _text(file.attrs.get("format")) != FORMAT:
        message = f"{path} is an HDF5 file, but no shard of clipstore"
        raise ShardError(message)
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        message = f"{path} has shard format {version}; this clipstore knows up to {FORMAT_VERSION}: install a newer one"
        raise ShardError(message)
    info: dict[str, Any] = {
        name: _text(file.attrs[name]) if kind is str else kind(file.attrs[name]) for name, kind in _ATTRIBUTES.items()
    }
    failed = [key.decode() for key in file["failed_content"][:]]
    return Shard(
        path=path,
        info=ShardInfo(**info),
        contents=[key.decode() for key in file["content"][:]],
        failures=dict(zip(failed, map(_text, file["failed_reason"][:].tolist()), strict=True)),
        dim=int(file.attrs["dim"]),
        dtype=_text(file.attrs["dtype"]),
        checksum=_text(file.attrs["checksum"]),
        size=path.stat().st_size,
    )


def _blocks(values: h5py.Dataset) -> Iterator[NDArray[Any]]:
    """The rows in order, a few megabytes at a time."""
    rows = max(1, _BLOCK_BYTES // max(1, values.shape[1] * values.dtype.itemsize))
    for low in range(0, len(values), rows):
        yield values[low : low + rows]


def _checksum(blocks: Iterable[NDArray[Any]], contents: list[str], failures: dict[str, str]) -> str:
    """SHA-256 over the rows in C order, then the content keys and the failures as JSON."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(np.ascontiguousarray(block).data)
    digest.update(json.dumps([contents, failures]).encode())
    return digest.hexdigest()


def _damaged(shard: Shard) -> ShardError:
    imported = shard.info.family == _IMPORTED
    command = f"{'import' if imported else 'embed --model'} {shlex.quote(shard.info.model)}"
    return ShardError(
        f"the shard {shard.path} is damaged: its {shard.info.kind} do not agree with its checksum; delete the file and "
        f"run 'clipstore {command}' to {'import' if imported else 'compute'} them again"
    )


def _unreadable(path: Path, error: Exception) -> ShardError:
    reason = str(error) if path.exists() else "it is gone"
    return ShardError(f"cannot read the shard {path} ({reason}): remove what is left of it, and embed again")
