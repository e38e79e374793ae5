"""Shards: one immutable HDF5 file each, checked when it is written. See docs/shard-format.md for the normative format.

The only module that imports h5py.
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
from clipstore.hints import embed_command
from clipstore.records import ShardKind, TowerName

FORMAT = "clipstore-shard"
FORMAT_VERSION = 1

_IMPORTED = "imported"  # the family of vectors that were computed elsewhere
_BLOCK_BYTES = 2**22  # read at a time for a checksum

# The attributes of a shard beside those of the format, with their types.
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
    """The provenance of a shard, stored as attributes of the file.

    Attributes:
        kind: "vectors" of a tower, or "features" of a backbone before the projection head.
        fingerprint: of the tower or the backbone.
        model: name of the model that was embedded; others may share the fingerprint.
        family: family of the model; "imported" for vectors that were computed elsewhere.
        precision: of the computation: "fp32", "bf16", "fp16" or "imported".
        normalised: whether rows have unit length.
        cut: number of texts that were truncated to the model's maximum length.
        software: versions of the software, as JSON (see `software`).
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
        contents: content key of each row, in order.
        failures: content key -> reason, of the items that have no row.
        dim, dtype: columns and type of the rows.
        size: of the file, in bytes.
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
    """Rows (N, D) scaled to unit length in float64, then rounded to `dtype`; zero rows remain zero."""
    wide = np.asarray(values, dtype=np.float64)
    # Scaled by a power of two, which is exact, so that no square overflows.
    wide = np.ldexp(wide, -np.frexp(np.abs(wide).max(axis=1, keepdims=True, initial=0))[1])
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray((wide / np.where(lengths > 0, lengths, 1)).astype(dtype))


def software(**versions: str) -> str:
    """The value of the attribute `software`: versions by name, as JSON."""
    return json.dumps(versions, sort_keys=True)


def write_shard(
    path: Path, info: ShardInfo, values: NDArray[Any], contents: Sequence[str], failures: Mapping[str, str]
) -> Shard:
    """Write rows (N, D), float16 or float32, with their content keys; a file at `path` is complete.

    The file is written under a temporary name in the same folder, flushed, read back and checked, and then renamed.

    Raises:
        ShardError: it cannot be written, or reads back differently.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary.write_bytes(_file_bytes(info, values, contents, failures))
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
    """The description of a shard, without its rows. With `check`, the rows are read and compared with the checksum.

    Raises:
        ShardError: the file is missing, not a shard, of a newer format, or damaged.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # immutable: no lock needed
            shard = _describe(path, file)
            if check and shard.checksum != _checksum(_blocks(file["values"]), shard.contents, shard.failures):
                raise _damaged(shard)
            return shard
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # raised by HDF5 and h5py for damage
        raise _unreadable(path, error) from error


def check(path: Path) -> None:
    """Compare a shard with its checksum, unless this process has done so since the file was last written.

    The first call reads the whole file, about 1 ms of CPU time per megabyte; a later call costs one `stat`.

    Raises:
        ShardError: the file is missing, cannot be read, or does not match its checksum.
    """
    now = file_stamp(path)
    if _checked.get(path) != now:
        read_shard(path, check=True)
        _checked[path] = now


def clear_checks() -> None:
    """Compare every shard with its checksum again when it is next read, as a new process does."""
    _checked.clear()


def read_rows(path: Path, rows: NDArray[np.int64]) -> NDArray[Any]:
    """The given rows of a shard, in the given order and the stored type, without comparing the checksum.

    Raises:
        ShardError: the file is missing or cannot be read.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:  # immutable: no lock needed
            values = file["values"]
            unique, places = np.unique(rows, return_inverse=True)
            low, high = int(unique[0]), int(unique[-1]) + 1
            # HDF5 selects single rows slowly: unless they are sparse, reading the whole range is faster.
            if len(unique) * 8 < high - low:
                return np.asarray(values[unique])[places]
            return np.asarray(values[low:high])[rows - low]
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # raised by HDF5 and h5py for damage
        raise _unreadable(path, error) from error


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Distinguishes a file from one that replaced it. All None: there is no file."""

    inode: int | None
    size: int | None
    modified_ns: int | None


# The stamps of the files that matched their checksums in this process.
_checked: dict[Path, FileStamp] = {}


def file_stamp(path: Path) -> FileStamp:
    """The current stamp of a file."""
    try:
        status = path.stat()
    except OSError:
        return FileStamp(None, None, None)
    return FileStamp(status.st_ino, status.st_size, status.st_mtime_ns)


def check_file_unchanged(path: Path, before: FileStamp) -> None:
    """Compare a shard's file with an earlier stamp.

    Raises:
        ShardError: it was replaced or changed.
    """
    if file_stamp(path) != before:
        message = f"the shard {path} changed while it was read: nothing was stored; embed again, then run this again"
        raise ShardError(message)


def gather(paths: Sequence[Path], which: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Row `rows[i]` of the shard `paths[which[i]]` for each i, as (N, D); float32 unless every row is float16.

    Each shard is compared with its checksum first (see `check`).

    Raises:
        ShardError: a file is missing, cannot be read, or is damaged.
    """
    used = np.unique(which).tolist()
    for number in used:
        check(paths[number])
    places = [np.flatnonzero(which == number) for number in used]
    parts = [read_rows(paths[number], rows[place]) for number, place in zip(used, places, strict=True)]
    gathered = np.empty((len(rows), parts[0].shape[1]), dtype=np.result_type(*parts))
    for place, part in zip(places, parts, strict=True):
        gathered[place] = part
    return gathered


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


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed processes left of this shard.

    Those of living processes stay: two may write a shard at the same time, with the same rows.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        try:
            os.kill(int(leftover.name.split(".")[-2]), 0)  # signal 0 only checks that the process exists
        except ProcessLookupError:
            leftover.unlink(missing_ok=True)
        except PermissionError:
            pass  # it exists, and belongs to another user


def _text_type(*texts: bytes) -> Any:
    """UTF-8 of fixed length: HDF5 stores texts of variable length in a heap, where damage can hang its reader."""
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
        message = f"{path} is an HDF5 file, but not a clipstore shard"
        raise ShardError(message)
    version = int(file.attrs["format_version"])
    if version > FORMAT_VERSION:
        message = f"{path} has shard format {version}; this clipstore reads up to {FORMAT_VERSION}: install a newer one"
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
    """The rows in order, _BLOCK_BYTES at a time."""
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
    if shard.info.family == _IMPORTED:
        remedy = f"'clipstore import {shlex.quote(shard.info.model)}' to import them again"
    else:
        remedy = f"'{embed_command(shard.info.model)}' to compute them again"
    return ShardError(
        f"the shard {shard.path} is damaged: its {shard.info.kind} do not match its checksum; delete the file and run "
        f"{remedy}"
    )


def _unreadable(path: Path, error: Exception) -> ShardError:
    reason = str(error) if path.exists() else "it does not exist"
    return ShardError(f"cannot read the shard {path} ({reason}): delete the file if it exists, and embed again")
