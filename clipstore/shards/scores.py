"""Score shards: one immutable HDF5 file each, with the scores that a matching head gave to pairs of image and text.

A pair is stored as two row numbers of the file's own lists of content keys, 12 bytes with its score. A score shard is
small and is always read and checked as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipstore.shards.layout import check_format, invalid, open_file, read_attribute, read_dataset, read_keys
from clipstore.shards.scan import file_checksum
from clipstore.shards.write import Publish, install, publish_nowhere, set_attribute

FORMAT = "clipstore-scores"
FORMAT_VERSION = 1

_TYPES: Mapping[str, Any] = {"image": h5py.h5t.STD_I32LE, "text": h5py.h5t.STD_I32LE, "score": h5py.h5t.IEEE_F32LE}

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreInfo:
    """The provenance of a score shard, stored as attributes of the file.

    Attributes:
        fingerprint: SHA-256 of everything that decides a score.
        model, family: the model that computed it; others may share the fingerprint.
        precision: of the computation: "fp32" or "bf16".
        software: versions of the software, as JSON (see `shards.software`).
    """

    fingerprint: str
    model: str
    family: str
    precision: str
    software: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairScores:
    """Scores of pairs.

    Attributes:
        image_contents, text_contents: distinct content keys, of image files and of texts.
        image, text: (N,) int32, the pair's rows of these lists; each pair occurs once.
        score: (N,) float32, finite.
    """

    image_contents: list[str]
    text_contents: list[str]
    image: Ints
    text: Ints
    score: Floats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoreShard:
    """A complete score shard on disk.

    Attributes:
        checksum: SHA-256 of the content, which the file states.
        size: of the file, in bytes.
        file_checksum: SHA-256 of the file, in hex.
    """

    path: Path
    info: ScoreInfo
    scores: PairScores
    checksum: str
    size: int
    file_checksum: str = field(repr=False)


def write_scores(path: Path, info: ScoreInfo, scores: PairScores, *, publish: Publish = publish_nowhere) -> ScoreShard:
    """Write scores; a file at `path` is complete. It is written and published as by `write_shard`.

    Raises:
        ShardError: it cannot be written, or reads back differently.
        StorageError: it cannot be published.
    """
    return replace(install(path, lambda: _file_bytes(info, scores), read_scores, publish), path=path)


def read_scores(path: Path) -> ScoreShard:
    """Read a score shard, and check its layout, checksum and values.

    Raises:
        ShardError: the file is missing, not a score shard, of a newer format, or damaged.
    """
    with open_file(path) as file:
        info, stated = _read_info(path, file)
        size = path.stat().st_size
        scores = _read_pairs(path, file, size)
    _check(path, scores)
    if _checksum(scores) != stated:
        raise invalid(path, "its scores do not match its checksum")
    return ScoreShard(
        path=path, info=info, scores=scores, checksum=stated, size=size, file_checksum=file_checksum(path)
    )


def _read_info(path: Path, file: h5py.File) -> tuple[ScoreInfo, str]:
    """The provenance of a file, and the checksum that it states."""
    check_format(path, file, FORMAT, FORMAT_VERSION, ("a score shard of clipstore", "score format"))
    values = {item.name: read_attribute(path, file, item.name, str) for item in fields(ScoreInfo)}
    return ScoreInfo(**values), read_attribute(path, file, "checksum", str)


def _read_pairs(path: Path, file: h5py.File, size: int) -> PairScores:
    columns = {}
    for name, stored_type in _TYPES.items():
        dataset = read_dataset(path, file, name, size, rank=1)
        if dataset.get_type() != stored_type:
            raise invalid(path, f"{name} is not of the documented type")
        columns[name] = h5py.Dataset(dataset)[:]
    return PairScores(
        image_contents=read_keys(path, file, "image_content", size),
        text_contents=read_keys(path, file, "text_content", size),
        **columns,
    )


def _check(path: Path, scores: PairScores) -> None:
    """Refuse pairs whose rows do not exist or that occur twice, and scores that are not finite."""
    if not len(scores.image) == len(scores.text) == len(scores.score):
        raise invalid(path, "its columns are not equally long")
    for name, rows, contents in (
        ("image", scores.image, scores.image_contents),
        ("text", scores.text, scores.text_contents),
    ):
        if len(rows) and not (int(rows.min()) >= 0 and int(rows.max()) < len(contents)):
            raise invalid(path, f"a pair names a row of {name}_content that does not exist")
    if len(np.unique(scores.image * np.int64(len(scores.text_contents)) + scores.text)) < len(scores.image):
        raise invalid(path, "it has a pair twice")
    if not np.isfinite(scores.score).all():
        row = int(np.flatnonzero(~np.isfinite(scores.score))[0])
        raise invalid(path, f"the score of row {row} is NaN or infinite")


def _checksum(scores: PairScores) -> str:
    """SHA-256, in hex, of the content keys as JSON, then the columns, little-endian."""
    digest = hashlib.sha256(json.dumps([scores.image_contents, scores.text_contents]).encode())
    for column in (scores.image.astype("<i4"), scores.text.astype("<i4"), scores.score.astype("<f4")):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _file_bytes(info: ScoreInfo, scores: PairScores) -> bytes:
    """The content of the file, assembled in memory (see `write._file_bytes`)."""
    with h5py.File("scores", "w", driver="core", backing_store=False, libver=("v110", "v110")) as file:
        set_attribute(file, "format", FORMAT)
        set_attribute(file, "format_version", FORMAT_VERSION)
        for item in fields(ScoreInfo):
            set_attribute(file, item.name, getattr(info, item.name))
        set_attribute(file, "checksum", _checksum(scores))
        file.create_dataset("image_content", data=np.array(scores.image_contents, dtype="S64"))
        file.create_dataset("text_content", data=np.array(scores.text_contents, dtype="S64"))
        file.create_dataset("image", data=scores.image.astype("<i4"))
        file.create_dataset("text", data=scores.text.astype("<i4"))
        file.create_dataset("score", data=scores.score.astype("<f4"))
        file.flush()
        return bytes(file.id.get_file_image())
