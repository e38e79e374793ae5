"""`clipstore gc`: remove unused shards and temporary files. Only files in the folders of the shards are removed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from clipstore.catalog import Session
from clipstore.records import Row
from clipstore.shards import temporary_files
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock
from clipstore.store.recovery import save_records
from clipstore.store.registry import delete_shards

KINDS = {
    "unused": "shards of fingerprints that no model has",
    "scores": "score shards of matching heads that no model has",
    "replaced": "shards whose vectors a later import replaced",
    "orphans": "shard files that are not registered in the catalog ('clipstore embed' of their model registers them)",
    "leftovers": "temporary files of processes that have ended",
    "failures": "records of failed items of fingerprints that no model has",
}


@dataclass(kw_only=True)
class Garbage:
    """The garbage of one kind: its files, the number of its rows in the catalog, and the bytes of its files."""

    kind: str
    files: list[Path] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def row(self) -> Row:
        """The row that `clipstore gc --json` prints."""
        return {
            "kind": self.kind,
            "what": KINDS[self.kind],
            "files": len(self.files),
            "rows": self.rows,
            "bytes": self.size,
            "paths": [str(file) for file in self.files],
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
    with shard_removal_lock(store) if delete and store.shards.is_dir() else nullcontext():
        with store.catalog.write() if delete else store.catalog.read() as session:
            garbage, shard_ids = _registered(session, store)
            unused_scores = session.rows("rerank/unused_shards")
            registered = {
                store.root / row["file"] for name in ("gc/files", "rerank/files") for row in session.rows(name)
            }
            if delete:
                _delete_rows(session, shard_ids)
                session.run("rerank/delete_shards", files=[row["file"] for row in unused_scores])
                save_records(session, store, "models", "fingerprints")
        garbage.append(_unused_scores(store, unused_scores))
        garbage.append(Garbage(kind="orphans", files=_orphans(store, registered)))
        garbage.append(Garbage(kind="leftovers", files=_leftovers(store)))
        for part in garbage:
            part.size = sum(map(_size, part.files))
            if delete:
                _unlink(part.files)
    order = list(KINDS)
    rows = sorted((part.row() for part in garbage), key=lambda row: order.index(row["kind"]))
    return {"deleted": delete, "bytes": sum(row["bytes"] for row in rows), "kinds": rows}


def _registered(session: Session, store: Store) -> tuple[list[Garbage], list[int]]:
    """The garbage that is registered in the catalog, and the ids of its shards."""
    garbage, shard_ids = [], []
    for kind, statement in (("unused", "gc/unused_shards"), ("replaced", "gc/replaced_shards")):
        rows = session.rows(statement)
        shard_ids += [row["shard_id"] for row in rows]
        files = [file for row in rows if _inside(store, file := store.root / row["file"])]
        garbage.append(Garbage(kind=kind, files=files, rows=sum(row["items"] for row in rows)))
    garbage.append(Garbage(kind="failures", rows=session.rows("gc/count_failures")[0]["failures"]))
    return garbage, shard_ids


def _unused_scores(store: Store, rows: list[Row]) -> Garbage:
    files = [file for row in rows if _inside(store, file := store.root / row["file"])]
    return Garbage(kind="scores", files=files, rows=sum(row["pairs"] for row in rows))


def _delete_rows(session: Session, shard_ids: list[int]) -> None:
    delete_shards(session, shard_ids)
    for statement in ("gc/delete_failures", "gc/delete_precision_checks", "gc/delete_probes"):
        session.run(statement)


def _orphans(store: Store, registered: set[Path]) -> list[Path]:
    return [file for file in _files(store) if file.suffix == ".h5" and file.name[0] != "." and file not in registered]


def _leftovers(store: Store) -> list[Path]:
    """Temporary files, `.NAME.PROCESS.tmp` as `write_shard` names them, of processes that have ended."""
    return [file for folder, _ in _folders(store) for file in temporary_files(folder)]


def _files(store: Store) -> Iterator[Path]:
    """The plain files in the folders of fingerprints; links are not followed."""
    for folder, names in _folders(store):
        files = (folder / name for name in sorted(names))
        yield from (file for file in files if file.is_file() and not file.is_symlink())


def _folders(store: Store) -> Iterator[tuple[Path, list[str]]]:
    """The folders of fingerprints, of shards and of score shards, with the names of their files."""
    for root in (store.shards, store.scores):
        for folder, _, names in sorted(os.walk(root)):
            if Path(folder) != root:
                yield Path(folder), names


def _inside(store: Store, file: Path) -> bool:
    """Whether a file is in the folder of the shards or of the score shards, which may be a link."""
    return any(file.resolve().is_relative_to(root.resolve()) for root in (store.shards, store.scores))


def _size(file: Path) -> int:
    return file.lstat().st_size if file.exists() else 0


def _unlink(files: Iterable[Path]) -> None:
    """Remove files, and the folders that they leave empty."""
    folders = {file.parent for file in files}
    for file in files:
        file.unlink(missing_ok=True)
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
