"""clipstore: an embedding store and batch indexing system for image-text retrieval.

>>> import clipstore
>>> store = clipstore.open("store")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipstore.errors import ClipstoreError

if TYPE_CHECKING:
    from pathlib import Path

    from clipstore.api import EmbeddingStore

__all__ = ["ClipstoreError", "open"]


def open(folder: str | Path | None = None) -> EmbeddingStore:  # noqa: A001  (read as clipstore.open)
    """Open a store. Nothing is read or written yet: a folder without a store gets one by an ingest.

    Args:
        folder: The folder of the store. Default: $CLIPSTORE_STORE, else "store".

    Raises:
        OptionError: `folder` is not a path.

    Example:
        >>> store = clipstore.open("store")
        >>> store.evaluate("full", "coco/val2017")
    """
    from clipstore.api import EmbeddingStore

    return EmbeddingStore(folder)
