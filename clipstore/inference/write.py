"""The shards of a plan: their paths, and writing them."""

from __future__ import annotations

import hashlib
import time
from importlib.metadata import version
from typing import Protocol

import numpy as np

from clipstore import shards
from clipstore.inference.builder import EncodedRows, ShardBuilder
from clipstore.records import Model, ShardKind, ShardPlan
from clipstore.shards import Shard, ShardInfo, Storage, normalize


class WriteSettings(Protocol):
    """Where the shards of a model are written, and in which type; see `EncodeSettings`."""

    @property
    def storage(self) -> Storage:
        """Where they are."""

    @property
    def model(self) -> Model:
        """The model, for the provenance."""

    @property
    def store_dtype(self) -> str:
        """The type of the vectors."""


_SOFTWARE = ("clipstore", "torch", "transformers", "pillow")


def plan_file(plan: ShardPlan, fingerprint: str) -> str:
    """The file of a plan's shard, relative to the store. The same plan always has the same file."""
    name = hashlib.sha256("\n".join(plan.contents).encode()).hexdigest()[:16]
    return f"shards/{fingerprint}/{plan.tower.tower}-{name}.h5"


def write_shards(builders: list[ShardBuilder]) -> list[Shard]:
    """Write the shards of plans once all their batches are computed."""
    written = []
    for builder in builders:
        rows = builder.rows()
        start = time.perf_counter()
        written += _write_plan(builder.plan, builder.settings, rows)
        builder.settings.timings.write += time.perf_counter() - start
    return written


def write_failed(plan: ShardPlan, settings: WriteSettings, reason: str) -> list[Shard]:
    """Write the shards of a plan whose items have all failed."""
    rows = EncodedRows(
        contents=[],
        failures=dict.fromkeys(plan.contents, reason),
        vectors=np.empty((0, plan.tower.dim), dtype=np.float32),
        features=None,
        cut=0,
    )
    return _write_plan(plan, settings, rows)


def _write_plan(plan: ShardPlan, settings: WriteSettings, rows: EncodedRows) -> list[Shard]:
    has_features = plan.source == "image_files" and plan.tower.backbone
    kinds: tuple[ShardKind, ...] = ("vectors", "features") if has_features else ("vectors",)
    return [_write(plan, settings, rows, kind) for kind in kinds]


def _write(plan: ShardPlan, settings: WriteSettings, rows: EncodedRows, kind: ShardKind) -> Shard:
    """Write vectors (normalised, in the stored type) or features (not normalised, float32, for other heads)."""
    if kind == "vectors":
        fingerprint, values = plan.tower.fingerprint, normalize(rows.vectors, settings.store_dtype)
    elif rows.features is not None:
        fingerprint, values = plan.tower.backbone or "", rows.features
    else:  # every image failed
        fingerprint, values = plan.tower.backbone or "", np.empty((0, plan.tower.features_dim), dtype=np.float32)
    info = ShardInfo(
        kind=kind,
        tower=plan.tower.tower,
        fingerprint=fingerprint,
        model=settings.model.name,
        family=settings.model.family,
        precision=plan.tower.precision,
        normalised=kind == "vectors",
        cut=rows.cut,
        software=shards.software(**{name: version(name) for name in _SOFTWARE}),
    )
    # A reason may quote text that UTF-8 cannot encode, such as half a surrogate pair from a damaged file.
    failures = {key: reason.encode(errors="replace").decode() for key, reason in rows.failures.items()}
    path = settings.storage.path(plan_file(plan, fingerprint))
    return shards.write_shard(path, info, values, rows.contents, failures, publish=settings.storage.publish)
