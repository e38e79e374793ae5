"""The shards of a plan: paths, writing, and reuse of shards that an interrupted run completed."""

from __future__ import annotations

import hashlib
import time
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np

from clipstore import shards
from clipstore.errors import ShardError
from clipstore.inference.builder import EncodedRows, ShardBuilder
from clipstore.records import Model, ShardKind, ShardPlan
from clipstore.shards import Shard, ShardInfo, normalize


class WriteSettings(Protocol):
    """Where the shards of a model are written, and in which type; see `EncodeSettings`."""

    @property
    def folder(self) -> Path:
        """The store's folder of shards."""

    @property
    def model(self) -> Model:
        """The model, for the provenance."""

    @property
    def store_dtype(self) -> str:
        """The type of the vectors."""


_SOFTWARE = ("clipstore", "torch", "transformers", "pillow")


def shard_path(folder: Path, plan: ShardPlan, fingerprint: str) -> Path:
    """The path of a plan's shard, named by the items planned, so that the same plan always has the same path."""
    name = hashlib.sha256("\n".join(plan.contents).encode()).hexdigest()[:16]
    return folder / fingerprint / f"{plan.tower.tower}-{name}.h5"


def complete_shards(folder: Path, plan: ShardPlan) -> list[Shard]:
    """Returns the shards of a plan that an interrupted run completed, or none unless all exist and are undamaged."""
    fingerprints: dict[ShardKind, str] = {"vectors": plan.tower.fingerprint}
    if plan.source == "image_files" and plan.tower.backbone:
        fingerprints["features"] = plan.tower.backbone
    paths = [shard_path(folder, plan, fingerprint) for fingerprint in fingerprints.values()]
    if not all(path.exists() for path in paths):
        return []
    try:
        complete = [shards.read_shard(path, check=True) for path in paths]
    except ShardError:
        return []  # damaged: it is written again
    kinds = zip(complete, fingerprints.items(), strict=True)
    return complete if all(_is_planned(shard, plan, kind, fingerprint) for shard, (kind, fingerprint) in kinds) else []


def _is_planned(shard: Shard, plan: ShardPlan, kind: ShardKind, fingerprint: str) -> bool:
    """Whether a shard has the items and the tower of a plan. A file of another origin can have the plan's name."""
    dim = plan.tower.dim if kind == "vectors" else plan.tower.features_dim
    expected = (kind, plan.tower.tower, fingerprint, dim)
    items = sorted([*shard.contents, *shard.failures])
    return (shard.info.kind, shard.info.tower, shard.info.fingerprint, shard.dim) == expected and items == sorted(
        plan.contents
    )


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
    kinds: tuple[ShardKind, ...] = ("vectors", "features") if plan.source == "image_files" else ("vectors",)
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
    return shards.write_shard(shard_path(settings.folder, plan, fingerprint), info, values, rows.contents, failures)
