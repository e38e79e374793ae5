"""The description of a shard, its checksum, and the scaling of its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.records import RegisteredShard, ShardKind, TowerName

FORMAT = "clipstore-shard"
FORMAT_VERSION = 1

# The attributes of a shard beside those of the format, with their types.
ATTRIBUTES: Mapping[str, type] = {
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
        checksum: the checksum that the file states.
        size: of the file, in bytes.
        file_checksum: SHA-256 of the file, in hex; "" unless the file was read as a whole.
        row_checksums: CRC-32 of each row's bytes; empty unless the rows were read.
    """

    path: Path
    info: ShardInfo
    contents: list[str]
    failures: dict[str, str]
    dim: int
    dtype: str
    checksum: str
    size: int
    file_checksum: str = field(default="", compare=False)
    row_checksums: list[int] = field(default_factory=list, compare=False, repr=False)

    def registered(self) -> RegisteredShard:
        """The shard as the catalog describes it."""
        return RegisteredShard(
            path=self.path,
            kind=self.info.kind,
            tower=self.info.tower,
            fingerprint=self.info.fingerprint,
            items=len(self.contents),
            dim=self.dim,
            dtype=self.dtype,
            checksum=self.checksum,
            file_checksum=self.file_checksum or None,
        )


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


def checksum(blocks: Iterable[NDArray[Any]], contents: list[str], failures: dict[str, str]) -> str:
    """SHA-256, in hex, over the rows in C order, then the content keys and the failures as JSON."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(np.ascontiguousarray(block).data)
    digest.update(items_json(contents, failures))
    return digest.hexdigest()


def items_json(contents: list[str], failures: dict[str, str]) -> bytes:
    """The part of a checksum's input that follows the rows."""
    return json.dumps([contents, failures]).encode()
