"""`clipstore gc`: remove unused shards and temporary files. Only files in the folders of the shards are removed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field

from clipstore.catalog import Session
from clipstore.records import Row
from clipstore.shards import FOLDERS, Storage, StoredFile, is_shard_name
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock
from clipstore.store.recovery import save_records
from clipstore.store.registry import delete_shards
from clipstore.store.storage import shard_storage

KINDS = {
    "unused": "shards of fingerprints that no model has",
    "scores": "score shards of matching heads that no model has",
    "replaced": "shards whose vectors a later import replaced",
    "orphans": (
        "shard files that are not registered in the catalog ('clipstore embed' of their model, or 'clipstore register' "
        "of their plans, registers them)"
    ),
    "leftovers": "temporary files of processes that have ended",
    "failures": "records of failed items of fingerprints that no model has",
}


@dataclass(kw_only=True)
class Garbage:
    """The garbage of one kind: its files relative to the store, its rows in the catalog, and the bytes of the files."""

    kind: str
    files: list[str] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def row(self, storage: Storage) -> Row:
        """The row that `clipstore gc --json` prints."""
        return {
            "kind": self.kind,
            "what": KINDS[self.kind],
            "files": len(self.files),
            "rows": self.rows,
            "bytes": self.size,
            "paths": [storage.location(file) for file in self.files],
        }


def collect_garbage(store: Store, *, delete: bool) -> Row:
    """Find unused shards and temporary files, and remove them with `delete`.

    Rows of the catalog are deleted first: if the process is killed, the next run finds the files. Temporary files of
    processes that are alive are kept.

    Returns {"deleted", "bytes", "kinds"}, with a row for each kind of KINDS.

    Raises:
        NotFoundError: there is no store.
        ShardError: with `delete`, another process is writing shards.
    """
    with shard_removal_lock(store) if delete and store.catalog.path.exists() else nullcontext():
        with store.catalog.write() if delete else store.catalog.read() as session:
            garbage, shard_ids = _registered(session)
            unused_scores = session.rows("rerank/unused_shards")
            registered = {row["file"] for name in ("gc/files", "rerank/files") for row in session.rows(name)}
            if delete:
                _delete_rows(session, shard_ids)
                session.run("rerank/delete_shards", files=[row["file"] for row in unused_scores])
                save_records(session, store, "models", "fingerprints")
        storage = shard_storage(store)
        listed = {file: stored for folder in FOLDERS for file, stored in storage.files(folder).items()}
        orphans = [file for file, stored in listed.items() if file not in registered and _is_orphan(file, stored)]
        garbage.append(_unused_scores(unused_scores))
        garbage.append(Garbage(kind="orphans", files=orphans))
        garbage.append(Garbage(kind="leftovers", files=[file for name in FOLDERS for file in storage.leftovers(name)]))
        for part in garbage:
            part.size = sum(listed[file].size for file in part.files if file in listed)
            if delete:
                for file in part.files:
                    storage.remove(file)
    order = list(KINDS)
    rows = sorted((part.row(storage) for part in garbage), key=lambda row: order.index(row["kind"]))
    return {"deleted": delete, "bytes": sum(row["bytes"] for row in rows), "kinds": rows}


def _registered(session: Session) -> tuple[list[Garbage], list[int]]:
    """The garbage that is registered in the catalog, and the ids of its shards."""
    garbage, shard_ids = [], []
    for kind, statement in (("unused", "gc/unused_shards"), ("replaced", "gc/replaced_shards")):
        rows = session.rows(statement)
        shard_ids += [row["shard_id"] for row in rows]
        files = [row["file"] for row in rows if is_shard_name(row["file"])]
        garbage.append(Garbage(kind=kind, files=files, rows=sum(row["items"] for row in rows)))
    garbage.append(Garbage(kind="failures", rows=session.rows("gc/count_failures")[0]["failures"]))
    return garbage, shard_ids


def _unused_scores(rows: list[Row]) -> Garbage:
    files = [row["file"] for row in rows if is_shard_name(row["file"])]
    return Garbage(kind="scores", files=files, rows=sum(row["pairs"] for row in rows))


def _delete_rows(session: Session, shard_ids: list[int]) -> None:
    delete_shards(session, shard_ids)
    for statement in ("gc/delete_failures", "gc/delete_precision_checks", "gc/delete_probes"):
        session.run(statement)


def _is_orphan(file: str, stored: StoredFile) -> bool:
    """Whether a file in a folder of a fingerprint has the name of a shard; links are not followed."""
    name = file.rpartition("/")[2]
    inside = file.count("/") > 1 and name.endswith(".h5") and name[0] != "."
    return inside and stored.is_file and not stored.is_link
