"""The image files of queries: read from disk, or downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from clipstore.errors import ImageError
from clipstore.files import READERS, read_image_file
from clipstore.pipeline.retrieve.download import DownloadRules, download
from clipstore.pipeline.retrieve.queries import Query


def load_images(queries: Iterable[Query], folder: Path, rules: DownloadRules) -> list[tuple[Query, str | None]]:
    """The queries with the path and content key of their images, each with the reason why it cannot be used, or None.

    Downloads are written to `folder`. Texts are returned unchanged.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(_load, folder=folder, rules=rules), queries))


def _load(query: Query, folder: Path, rules: DownloadRules) -> tuple[Query, str | None]:
    if query.kind == "sentence":
        return query, None
    try:
        data = read_image_file(query.path) if query.path else download(query.name, rules)
        content = hashlib.sha256(data).hexdigest()
        path = query.path or folder / content
        if not query.path:
            path.write_bytes(data)
    except ImageError as error:
        return query, str(error)
    except OSError as error:
        return query, f"the image file cannot be read: {error.strerror}"
    return replace(query, path=path, content=content), None
