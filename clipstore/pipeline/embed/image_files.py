"""Check image files on disk: which exist, and the SHA-256 of those that are new or changed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa

from clipstore.catalog import MemoryLimit
from clipstore.files import READERS, FileReader, image_file_state, read_image_file
from clipstore.progress import Progress, no_progress
from clipstore.records import Row
from clipstore.spool import SpooledTable
from clipstore.store.layout import Store
from clipstore.store.recovery import images_are_stale, mark_images_stale, save_records
from clipstore.waiting import wait_without_limit

_STEP = 4096  # files after which the catalog is updated, so that an interrupted check resumes there
_CHECKED = pa.schema(
    [
        ("image_id", pa.int64()),
        ("size", pa.int64()),
        ("modified_ns", pa.int64()),
        ("content", pa.string()),
        ("problem", pa.string()),
    ]
)


@wait_without_limit()
def check_image_files(
    store: Store,
    splits: list[int] | None,
    on_progress: Progress = no_progress,
    *,
    read: FileReader = read_image_file,
) -> None:
    """Update what the catalog records of the image files of some splits (ids; None: all).

    A file whose size and modification time are unchanged is not read.
    """
    with store.catalog.read(limit=MemoryLimit.PLAN) as session:
        batches = session.batches("embed/image_files", splits=splits)
        files = SpooledTable.write(batches, batches.schema, store.root)
    done = 0
    try:
        with ThreadPoolExecutor(READERS) as pool:
            for part in files.parts(_STEP):
                changed = []
                for row in pool.map(partial(_check, read=read), part.to_pylist()):
                    done += 1
                    on_progress("checking image files", done, files.num_rows)
                    if row:
                        changed.append(row)
                if changed:
                    _save(store, changed, is_last=done == files.num_rows)
    finally:
        if images_are_stale(store):
            with store.catalog.write(limit=MemoryLimit.INGEST) as session:
                save_records(session, store, "images", "models")


def _save(store: Store, changed: list[Row], *, is_last: bool) -> None:
    """Record the new state of image files in the catalog. Their records are saved once, with the last of them."""
    if not is_last:
        mark_images_stale(store)
    with store.catalog.write(limit=MemoryLimit.INGEST) as session:
        session.stage(checked_image_files=pa.Table.from_pylist(changed, schema=_CHECKED))
        session.run("embed/save_training_contents")
        session.run("embed/update_image_files")
        if is_last:
            save_records(session, store, "images", "models")


def _check(file: Row, *, read: FileReader) -> Row | None:
    """The new state of an image file; None: as it is recorded."""
    path = Path(file["path"])
    try:
        size, modified_ns = image_file_state(path)
        if (size, modified_ns) == (file["size"], file["modified_ns"]) and not file["problem"]:
            return None
        content = hashlib.sha256(read(path)).hexdigest()
    except FileNotFoundError:
        return _unreadable(file, "the image file is missing")
    except OSError as error:
        return _unreadable(file, f"the image file cannot be read: {error.strerror}")
    return {
        "image_id": file["image_id"],
        "size": size,
        "modified_ns": modified_ns,
        "content": content,
        "problem": None,
    }


def _unreadable(file: Row, problem: str) -> Row | None:
    if file["problem"] == problem:
        return None
    return {"image_id": file["image_id"], "size": None, "modified_ns": None, "content": None, "problem": problem}
