"""`clipstore verify --repair`: set damaged shards aside, so that `embed` computes their items again."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from clipstore.pipeline.verify.findings import Finding
from clipstore.shards import Storage
from clipstore.store.layout import Store
from clipstore.store.registry import delete_shards
from clipstore.store.storage import shard_storage


def repair_findings(store: Store, findings: list[Finding]) -> None:
    """Move damaged files to quarantine/, unregister damaged and missing shards, and remove temporary files.

    A file is moved before its shard is unregistered: if the process ends in between, the shard is missing, which
    `embed`, `rerank` and another `verify --repair` handle. The failed items of a damaged shard are forgotten as well,
    so that the next `embed` plans the same items, under the same name. The caller holds the lock for removing shards.
    """
    storage = shard_storage(store)
    for finding in findings:
        if finding.kind in ("damaged", "ids", "scores") and finding.file:
            target = _quarantine(store, storage, finding.file)
            finding.repaired = f"moved to {target.relative_to(store.root)} and unregistered"
        elif finding.kind == "missing" or finding.score_file:
            finding.repaired = "unregistered"
        elif finding.invalid and finding.file:
            finding.repaired = f"moved to {_quarantine(store, storage, finding.file).relative_to(store.root)}"
        elif finding.kind == "leftover" and finding.file:
            storage.remove(finding.file)
            finding.repaired = "removed"
    score_files = [finding.score_file for finding in findings if finding.score_file is not None]
    if score_files:
        with store.catalog.write() as session:
            session.run("rerank/delete_shards", files=score_files)
    damaged = [finding for finding in findings if finding.shard_id is not None]
    if damaged:
        with store.catalog.write() as session:
            delete_shards(session, [finding.shard_id for finding in damaged if finding.shard_id is not None])
            for finding in damaged:
                session.run("verify/delete_failures", fingerprint=finding.fingerprint, contents=finding.failures)


def _quarantine(store: Store, storage: Storage, file: str) -> Path:
    """Move a shard to quarantine/FINGERPRINT/ in the store, under its name or a numbered one; its new path."""
    path = storage.path(file)
    folder = store.quarantine / path.parent.name
    folder.mkdir(parents=True, exist_ok=True)
    names = (path.name if number == 0 else f"{path.stem}.{number}{path.suffix}" for number in count())
    target = next(folder / name for name in names if not (folder / name).exists())
    storage.set_aside(file, target)
    return target
