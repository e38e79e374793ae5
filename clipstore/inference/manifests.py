"""Manifests: what came out of a plan, written to `PLANS/manifests` once all shards of the plan are complete."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from clipstore.errors import PlanError, ShardError
from clipstore.inference.plan_files import MANIFESTS, Key, read_file, write_file
from clipstore.inference.write import plan_files
from clipstore.records import PlanGroup
from clipstore.shards import Shard, Storage, read_shard, shard_file


class ManifestShard(msgspec.Struct, kw_only=True, frozen=True):
    """A complete shard: its file relative to the store, its size in bytes, and its checksums."""

    file: str
    items: int
    failed: int
    bytes: int
    checksum: Key
    file_checksum: Key


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """What came out of the plan with the digest `plan`, and the name of the machine that encoded it."""

    plan: Key
    machine: str
    shards: Annotated[list[ManifestShard], Meta(min_length=1)]


def manifest_path(plan: Path) -> Path:
    """The manifest of a plan file."""
    return plan.parent / MANIFESTS / plan.name


def write_manifest(plan: Path, digest: str, shards: Sequence[Shard]) -> None:
    """Write the manifest of the plan file `plan`, whose shards are complete.

    Raises:
        PlanError: it cannot be written.
    """
    described = [
        ManifestShard(
            file=shard_file(shard.path),
            items=len(shard.contents),
            failed=len(shard.failures),
            bytes=shard.size,
            checksum=shard.checksum,
            file_checksum=shard.file_checksum,
        )
        for shard in shards
    ]
    write_file(manifest_path(plan), "manifest", Manifest(plan=digest, machine=socket.gethostname(), shards=described))


def read_manifest(plan: Path) -> Manifest | None:
    """The manifest of a plan file; None: it was not encoded yet.

    Raises:
        PlanError: it is damaged, or of another version of the format.
    """
    path = manifest_path(plan)
    return read_file(path, "manifest", Manifest)[0] if path.exists() else None


def is_complete(plan: Path, digest: str, storage: Storage) -> bool:
    """Whether a plan has a manifest, and its shards exist. `register` compares their checksums."""
    try:
        manifest = read_manifest(plan)
    except PlanError:
        return False
    if manifest is None or manifest.plan != digest:
        return False
    return not storage.missing([shard.file for shard in manifest.shards])


def complete_shards(group: PlanGroup, storage: Storage) -> list[Shard] | None:
    """The shards of a plan group that are complete, as a process leaves them that ended before the manifest.

    None: one is missing, damaged, of other items, or without rows: a plan to retry failed items has the same shard.
    """
    files = [(plan, file) for plan in group.plans for file in plan_files(plan)]
    if storage.missing([file for _, file in files]):
        return None
    shards = []
    for plan, file in files:
        try:
            shard = read_stored(storage, file)
        except ShardError:
            return None
        if not shard.contents or {*shard.contents, *shard.failures} != {*plan.contents}:
            return None
        shards.append(shard)
    return shards


def read_stored(storage: Storage, file: str) -> Shard:
    """A shard as it is stored now, read and checked as a whole.

    Raises:
        ShardError: it is missing or damaged.
    """
    with storage.original(file) as path:
        return replace(read_shard(path, check=True), path=storage.path(file))
