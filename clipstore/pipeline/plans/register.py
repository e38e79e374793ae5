"""`clipstore register`: enter the shards of encoded plans into the catalog, once they are verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote

import pyarrow as pa

from clipstore.catalog import MemoryLimit
from clipstore.errors import PlanError, ShardError
from clipstore.inference.manifests import Manifest, ManifestShard, manifest_path, read_manifest, read_stored
from clipstore.inference.plan_files import INDEX, Index, IndexEntry, Plan, read_file
from clipstore.inference.write import plan_file, plan_shards
from clipstore.pipeline.embed.summary import items_failed
from clipstore.progress import Progress, no_progress
from clipstore.records import Row, ShardKind, ShardPlan
from clipstore.shards import Shard, Storage
from clipstore.store.layout import Store
from clipstore.store.locks import shard_write_lock
from clipstore.store.registry import register, registered_shards
from clipstore.store.settings import store_id
from clipstore.store.storage import shard_storage
from clipstore.waiting import wait_without_limit

_PLANS_AT_ONCE = 64  # plans that are verified and registered in one transaction
_READERS = 4  # threads that verify shards: they wait for the disk, and hash without the interpreter's lock


class _NotAsStated(Exception):  # noqa: N818  (not an error: the plan is encoded again)
    """The shards of a plan are not as its manifest states."""


@dataclass(kw_only=True)
class RegisterResult:
    """The result of `register_plans`.

    Attributes:
        plans: the number of plans in the folder.
        registered, items: plans that the call registered, and their items that have a vector.
        before: plans that were registered before.
        failed: items of all registered plans that have no vector because they failed.
        missing: files of plans that were not encoded yet.
        problems: "plan" and "reason" of plans whose shards are not as their manifests state.
        unused: models of which the call registered vectors, and that the store does not have any more.
    """

    plans: int
    registered: int = 0
    items: int = 0
    before: int = 0
    failed: int = 0
    missing: list[str] = field(default_factory=list)
    problems: list[Row] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def register_plans(store: Store, folder: Path, on_progress: Progress = no_progress) -> RegisterResult:
    """Verify and register the shards of the plans in a folder that were encoded. Safe to run at any time, and again.

    The manifest of a plan whose shards are not as it states is removed, so that `encode` encodes the plan again.

    Raises:
        NotFoundError: there is no store.
        PlanError: the folder has no index, or the plans are of another store.
    """
    store.catalog.check_writable()
    index, _ = read_file(folder / INDEX, "plan-index", Index)
    if index.store != store_id(store):
        message = (
            f"the plans in {folder} are of the store in {index.folder}, not of {store.root}: name that store with "
            "--store, or plan again"
        )
        raise PlanError(message)
    result = RegisterResult(plans=len(index.plans))
    with shard_write_lock(store), wait_without_limit(), ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(index.plans), _PLANS_AT_ONCE):
            entries = index.plans[start : start + _PLANS_AT_ONCE]
            _register_some(store, folder, entries, result, pool)
            on_progress("plans verified", start + len(entries), len(index.plans))
    return result


def _register_some(
    store: Store, folder: Path, entries: Sequence[IndexEntry], result: RegisterResult, pool: ThreadPoolExecutor
) -> None:
    """Register some plans in one transaction, and count them in the result."""
    manifests = {}
    for entry in entries:
        manifest = _read_manifest(folder, entry, result)
        if manifest:
            manifests[entry.file] = manifest
    unregistered = _unregistered(store, manifests)
    result.before += len(manifests) - len(unregistered)
    new: list[Shard] = []
    for file, shards in zip(
        unregistered, pool.map(partial(_verified, shard_storage(store), folder), unregistered.items()), strict=True
    ):
        if isinstance(shards, _NotAsStated):
            _add_problem(folder, file, str(shards), result)
        elif isinstance(shards, PlanError):
            result.problems.append({"plan": file, "reason": str(shards)})
        else:
            new += shards
            result.registered += 1
    if new:
        with store.catalog.write(limit=MemoryLimit.REGISTER) as session:
            register(session, new)
            used = {row["fingerprint"] for row in session.rows("shards/used_fingerprints")}
        result.items += sum(len(shard.contents) for shard in new if shard.info.kind == "vectors")
        unused = {shard.info.model for shard in new if shard.info.fingerprint not in used}
        result.unused = sorted(unused.union(result.unused))
    _count_failures(store, folder, manifests, result)


def _count_failures(store: Store, folder: Path, manifests: Mapping[str, Manifest], result: RegisterResult) -> None:
    """Count the failed items of registered plans as the catalog has them: another plan may have retried them."""
    invalid = {problem["plan"] for problem in result.problems}
    items = []
    for file, manifest in manifests.items():
        if file in invalid or not any(shard.failed for shard in manifest.shards):
            continue
        try:
            plan, _ = read_file(folder / file, "plan", Plan)
        except PlanError as error:
            result.problems.append({"plan": file, "reason": str(error)})
            continue
        parts = plan.group(shard_storage(store)).plans
        items += [
            {"fingerprint": part.tower.fingerprint, "content": content} for part in parts for content in part.contents
        ]
    if items:
        with store.catalog.read() as session:
            session.stage(staged_items=pa.Table.from_pylist(items))
            result.failed += session.rows("embed/count_failures")[0]["failures"]


def _read_manifest(folder: Path, entry: IndexEntry, result: RegisterResult) -> Manifest | None:
    """The manifest of a plan; None: it was not encoded yet, or its manifest is damaged."""
    try:
        manifest = read_manifest(folder / entry.file)
    except PlanError as error:
        _add_problem(folder, entry.file, str(error), result)
        return None
    if manifest is None:
        result.missing.append(entry.file)
    elif manifest.plan != entry.digest or [shard.file for shard in manifest.shards] != entry.shards:
        _add_problem(folder, entry.file, "its manifest is of another plan", result)
        return None
    return manifest


def _add_problem(folder: Path, file: str, reason: str, result: RegisterResult) -> None:
    manifest_path(folder / file).unlink(missing_ok=True)
    result.problems.append({"plan": file, "reason": reason})


def _unregistered(store: Store, manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """The manifests with a shard that the catalog has not registered as it is stated."""
    files = [shard.file for manifest in manifests.values() for shard in manifest.shards]
    with store.catalog.read() as session:
        registered = registered_shards(session, store, files)
    known = {file: shard.file_checksum for file, shard in registered.items()}
    return {
        file: manifest
        for file, manifest in manifests.items()
        if any(known.get(shard.file) != shard.file_checksum for shard in manifest.shards)
    }


def _verified(storage: Storage, folder: Path, encoded: tuple[str, Manifest]) -> list[Shard] | _NotAsStated | PlanError:
    """The shards of a plan, which are as its manifest states and have its items; or what is wrong.

    A PlanError is about the plan file itself, without which the plan can neither be compared nor encoded again.
    """
    file, manifest = encoded
    try:
        plan, digest = read_file(folder / file, "plan", Plan)
        stated = {shard.file: shard for shard in manifest.shards}
        if digest != manifest.plan:
            return _NotAsStated("the plan file was changed")
        parts = plan.group(storage).plans
        return [_verified_shard(storage, part, kind, stated) for part in parts for kind in plan_shards(part)]
    except PlanError as error:
        return error
    except ShardError as error:
        return _NotAsStated(str(error))
    except _NotAsStated as difference:
        return difference


def _verified_shard(storage: Storage, plan: ShardPlan, kind: ShardKind, stated: Mapping[str, ManifestShard]) -> Shard:
    """One shard of a plan, read as a whole.

    Raises:
        ShardError: it is missing or damaged.
        _NotAsStated: it is not the one that the manifest states, or has other items.
    """
    fingerprint = plan_shards(plan)[kind]
    file = plan_file(plan, fingerprint)
    if file not in stated:
        message = f"its manifest does not state the shard {file}"
        raise _NotAsStated(message)
    shard = read_stored(storage, file)
    if shard.file_checksum != stated[file].file_checksum:
        message = f"the shard {storage.location(file)} is not the one that the manifest states"
        raise _NotAsStated(message)
    dim = plan.tower.dim if kind == "vectors" else plan.tower.features_dim
    same = (shard.info.kind, shard.info.fingerprint, shard.dim) == (kind, fingerprint, dim)
    if not same or {*shard.contents, *shard.failures} != {*plan.contents}:
        message = f"the shard {storage.location(file)} does not have the items, width or fingerprint of the plan"
        raise _NotAsStated(message)
    return shard


def check_problems(result: RegisterResult, folder: Path, *, allowed: int = 0) -> None:
    """Check that all encoded plans were registered, with at most `allowed` failed items.

    Raises:
        PlanError: the shards of a plan are not as its manifest states.
        FailedItemsError: more items failed.
    """
    if result.problems:
        count = len(result.problems)
        plans = "1 plan is" if count == 1 else f"{count} plans are"
        message = (
            f"{plans} not as encoded ({result.problems[0]['plan']}: {result.problems[0]['reason']}): "
            f"'clipstore encode {quote(str(folder))}' encodes {'it' if count == 1 else 'them'} again"
        )
        raise PlanError(message)
    if result.failed > allowed:
        raise items_failed(result.failed)
