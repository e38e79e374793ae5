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


def plan_shards(plan: ShardPlan) -> dict[ShardKind, str]:
    """The fingerprints of the shards that a plan gives, by kind."""
    kinds: dict[ShardKind, str] = {"vectors": plan.tower.fingerprint}
    if plan.source == "image_files" and plan.tower.backbone:
        kinds["features"] = plan.tower.backbone
    return kinds


def plan_files(plan: ShardPlan) -> list[str]:
    """The files of the shards that a plan gives."""
    return [plan_file(plan, fingerprint) for fingerprint in plan_shards(plan).values()]


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
    return [_write(plan, settings, rows, kind, fingerprint) for kind, fingerprint in plan_shards(plan).items()]


def _write(plan: ShardPlan, settings: WriteSettings, rows: EncodedRows, kind: ShardKind, fingerprint: str) -> Shard:
    """Write vectors (normalised, in the stored type) or features (not normalised, float32, for other heads)."""
    if kind == "vectors":
        values = normalize(rows.vectors, settings.store_dtype)
    elif rows.features is not None:
        values = rows.features
    else:  # every image failed
        values = np.empty((0, plan.tower.features_dim), dtype=np.float32)
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
