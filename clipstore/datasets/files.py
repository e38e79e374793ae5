"""Read annotation files as bytes, text or JSON. Every failure is a `DatasetError`."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from pathlib import Path
from typing import TypeVar

import msgspec

from clipstore.errors import DatasetError, nearest
from clipstore.files import read_regular
from clipstore.json_decoding import decode_json

T = TypeVar("T")

# Kinds of files that are not text, by their first bytes, and what to do about each.
_OTHER_KINDS = tuple(
    (re.compile(mark), kind, remedy)
    for mark, kind, remedy in (
        (rb"\x1f\x8b", "is compressed by gzip", "unpack it with gunzip"),
        (rb"PK\x03\x04", "is a ZIP archive (or a spreadsheet)", "unpack it, or save the sheet as CSV"),
        (rb"BZh[1-9]1AY&SY", "is compressed by bzip2", "unpack it with bunzip2"),
        (rb"\xfd7zXZ\x00", "is compressed by xz", "unpack it with unxz"),
        (rb"\x28\xb5\x2f\xfd", "is compressed by Zstandard", "unpack it with unzstd"),
        (rb"PAR1[\x00-\xff]{0,4}[\x00-\x08\x80-\xff]", "is a Parquet file", "write it as CSV"),
        (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself", "fetch it with 'git lfs pull'"),
        (rb"(?i)\s*<(!doctype )?html", "is a web page (HTML)", "download the file itself"),
    )
)
_START = 200  # bytes that are compared
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# Numbers that Python's json writes and JSON does not allow, each with all text before it. Strings are matched as a
# whole and so left unchanged. Possessive repeats, and a match up to the end, keep the cost linear in the size.
_NOT_A_NUMBER = re.compile(
    rb'((?:[^"NI-]++|"(?:[^"\\]++|\\.)*+"|"|N(?!aN)|I(?!nfinity)|-(?!Infinity))*+)(NaN|-?Infinity|\Z)', re.DOTALL
)


def read_json(file: Path, kind: type[T], what: str) -> T:
    """Decode `file` as `kind`, skipping every field that `kind` does not name; a bare NaN is read as null.

    Raises DatasetError when the file cannot be read, is not JSON, or is not `what` (naming the field).
    """
    return _decode_file(file, _read_bytes(file), kind, what)


def read_mapping(file: Path, kind: type[T], what: str) -> dict[str, T]:
    """As `read_json`, of an object whose keys are data, such as ids.

    Raises DatasetError as `read_json`, and for a repeated key: the last value would replace the others.
    """
    data = _read_bytes(file)
    decoded = _decode_file(file, data, dict[str, kind], what)  # type: ignore[valid-type]
    for key in _repeated_keys(data):
        raise DatasetError(f"{file}: the key {key[:80]!r} occurs more than once in one object; keep one of them")
    return decoded


def _repeated_keys(data: bytes) -> list[str]:
    """The keys that any object of a JSON text, which decodes, has more than once."""
    repeated: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        counts = Counter(key for key, _ in pairs)
        repeated.extend(key for key, count in counts.items() if count > 1)

    # Numbers stay text: Python refuses integers of thousands of digits.
    json.loads(data.decode(errors="replace"), object_pairs_hook=note, parse_int=str, parse_float=str, strict=False)
    return repeated


def _decode_file(file: Path, data: bytes, kind: type[T], what: str) -> T:
    try:
        return _decode(data, kind)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{file} is not {what}: {error}; fix that field or give another file") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise DatasetError(f"{file} is not JSON: {error}; download or write it again") from error


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return decode_json(data, kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        if b"NaN" not in data and b"Infinity" not in data:
            raise
        return decode_json(_NOT_A_NUMBER.sub(lambda match: match[1] + (match[2] and b"null"), data), kind)


def read_text(file: Path) -> str:
    """The text of a UTF-8 file, with its line ends; DatasetError when it cannot be read."""
    try:
        return _read_bytes(file).decode()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a UTF-8 file, ended by LF or CRLF and, unlike `str.splitlines`, by nothing else."""
    return [line.removesuffix("\r") for line in read_text(file).split("\n")]


def list_folder(folder: Path) -> list[str]:
    """The names in `folder`, sorted; DatasetError when it is missing, no folder, or may not be read."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DatasetError(f"cannot list the folder {folder}: {error.strerror}; check the path") from error


def _read_bytes(file: Path) -> bytes:
    try:
        data = read_regular(file).removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError as error:
        siblings = [path.name for path in file.parent.glob("*") if path.suffix == file.suffix]
        raise DatasetError(f"{file} does not exist{nearest(file.name, siblings)}; check the path") from error
    except OSError as error:
        raise DatasetError(f"cannot read {file}: {error.strerror}; check the path") from error
    if not data or data.isspace():
        raise DatasetError(f"{file} is empty; download or write it again")
    _check_kind(file, data)
    return data


def _check_kind(file: Path, data: bytes) -> None:
    """Refuse a file that is not text in UTF-8, with its kind."""
    if data.startswith(_UTF16) or b"\0" in data[:2]:  # text in UTF-8 does not begin with a NUL
        raise DatasetError(f"{file} is UTF-16; save it as UTF-8")
    for mark, kind, remedy in _OTHER_KINDS:
        if mark.match(data, 0, _START):
            raise DatasetError(f"{file} {kind}; {remedy}")
