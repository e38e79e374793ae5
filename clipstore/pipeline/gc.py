"""`clipstore gc`: shards and leftovers that nothing needs. Touches no file outside the folder of the shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from clipstore.catalog import Session
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock

KINDS = {
    "unused": "shards of fingerprints that no model has",
    "replaced": "shards whose vectors a later import replaced",
    "orphans": "shard files that the catalog does not know ('clipstore embed' of their model takes them up again)",
    "leftovers": "temporary files of processes that have ended",
    "failures": "records of failed items of fingerprints that no model has",
}


@dataclass(kw_only=True)
class Kind:
    """The garbage of one kind: its files, and how many rows of the catalog go with them."""

    kind: str
    files: list[Path] = field(default_factory=list)
    rows: int = 0
    size: int = 0

    def row(self) -> Row:
        """As `clipstore gc --json` prints it, `bytes` as the files take them."""
        return {
            "kind": self.kind,
            "what": KINDS[self.kind],
            "files": len(self.files),
            "rows": self.rows,
            "bytes": self.size,
            "paths": [str(file) for file in self.files],
        }


def collect_garbage(store: Store, *, delete: bool) -> Row:
    """Find what nothing needs, and with `delete` remove it: {"deleted", "bytes", "kinds"}, a row a kind of KINDS.

    Rows of the catalog go first: a run that is killed leaves files that the next one finds. Temporary files of
    processes that are alive are left alone.

    Raises:
        NotFoundError: there is no store.
        ShardError: with `delete`, another process is writing shards.
    """
    with shard_removal_lock(store) if delete and store.shards.is_dir() else nullcontext():
        with store.catalog.write() if delete else store.catalog.read() as session:
            kinds, shard_ids = _registered(session, store)
            known = {store.root / row["file"] for row in session.rows("gc/files")}
            if delete:
                _strike_out(session, shard_ids)
        kinds += [Kind(kind="orphans", files=_orphans(store, known)), Kind(kind="leftovers", files=_leftovers(store))]
        for one in kinds:
            one.size = sum(map(_size, one.files))
            if delete:
                _unlink(one.files)
    order = list(KINDS)
    rows = sorted((one.row() for one in kinds), key=lambda row: order.index(row["kind"]))
    return {"deleted": delete, "bytes": sum(row["bytes"] for row in rows), "kinds": rows}


def _registered(session: Session, store: Store) -> tuple[list[Kind], list[int]]:
    """The garbage that the catalog knows, and the ids of its shards."""
    kinds, shard_ids = [], []
    for kind, statement in (("unused", "gc/unused_shards"), ("replaced", "gc/replaced_shards")):
        rows = session.rows(statement)
        shard_ids += [row["shard_id"] for row in rows]
        files = [file for row in rows if _inside(store, file := store.root / row["file"])]
        kinds.append(Kind(kind=kind, files=files, rows=sum(row["items"] for row in rows)))
    kinds.append(Kind(kind="failures", rows=session.rows("gc/count_failures")[0]["failures"]))
    return kinds, shard_ids


def _strike_out(session: Session, shard_ids: list[int]) -> None:
    session.run("embed/delete_vectors", shards=shard_ids)
    session.run("embed/delete_shards", shards=shard_ids)
    for statement in ("gc/remove_failures", "gc/remove_precision_checks", "gc/remove_probes"):
        session.run(statement)


def _orphans(store: Store, known: set[Path]) -> list[Path]:
    return [file for file in _files(store) if file.suffix == ".h5" and file.name[0] != "." and file not in known]


def _leftovers(store: Store) -> list[Path]:
    """Temporary files, `.NAME.PROCESS.tmp` as `write_shard` names them, of processes that are not there any more."""
    return [file for file in _files(store) if file.name[0] == "." and file.suffix == ".tmp" and not _alive(file)]


def _alive(file: Path) -> bool:
    """Whether the process that a temporary file is named after may be running; another name is nobody's leftover."""
    number = file.name.split(".")[-2]
    if not number.isdecimal():
        return True
    try:
        os.kill(int(number), 0)  # signal 0 asks whether the process is there
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is there, and another user's
    return True


def _files(store: Store) -> Iterator[Path]:
    """The plain files in the folders of fingerprints; links are not followed."""
    for folder, _, names in sorted(os.walk(store.shards)):
        if Path(folder) != store.shards:
            files = (Path(folder) / name for name in sorted(names))
            yield from (file for file in files if file.is_file() and not file.is_symlink())


def _inside(store: Store, file: Path) -> bool:
    """Whether a shard's file lies in the folder of the shards, wherever that folder is."""
    return file.resolve().is_relative_to(store.shards.resolve())


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
