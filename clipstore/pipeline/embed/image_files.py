"""Looking at photos: which are there, and the SHA-256 of the bytes of those that are new or changed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa

from clipstore.files import check_regular, read_regular
from clipstore.inference.prefetch import READERS, Read
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.waiting import wait_without_limit

_STEP = 4096  # photos after which what was seen is written down: an interrupted look goes on there
_SEEN = pa.schema(
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
    store: Store, splits: list[int] | None, on_progress: Callable[[int, int], None], *, read: Read = read_regular
) -> None:
    """Bring the catalog's knowledge of the photos in some splits (None: all) up to date.

    A photo whose size and modification time are as they were is not read. `on_progress` takes photos done, and all.
    """
    with store.catalog.read() as session:
        session.stage(scope=session.table("embed/scope", splits=splits))
        photos = session.table("embed/image_files")
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(photos), _STEP):
            looked = pool.map(partial(_look, read=read), photos.slice(start, _STEP).to_pylist())
            seen = []
            for done, row in enumerate(looked, start + 1):
                on_progress(done, len(photos))
                if row:
                    seen.append(row)
            if seen:
                with store.catalog.write() as session:
                    session.stage(seen_photos=pa.Table.from_pylist(seen, schema=_SEEN))
                    session.run("embed/save_training_contents")
                    session.run("embed/update_image_files")


def _look(photo: Row, *, read: Read) -> Row | None:
    """What is new about a photo, or None."""
    try:
        check_regular(Path(photo["path"]))
        stat = Path(photo["path"]).stat()
        if (stat.st_size, stat.st_mtime_ns) == (photo["size"], photo["modified_ns"]) and not photo["problem"]:
            return None
        content = hashlib.sha256(read(Path(photo["path"]))).hexdigest()
    except FileNotFoundError:
        return _unreadable(photo, "the photo is missing")
    except OSError as error:
        return _unreadable(photo, f"the photo cannot be read: {error.strerror}")
    return {
        "image_id": photo["image_id"],
        "size": stat.st_size,
        "modified_ns": stat.st_mtime_ns,
        "content": content,
        "problem": None,
    }


def _unreadable(photo: Row, problem: str) -> Row | None:
    if photo["problem"] == problem:
        return None
    return {"image_id": photo["image_id"], "size": None, "modified_ns": None, "content": None, "problem": problem}
