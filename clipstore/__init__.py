"""clipstore: an embedding store and batch indexing system for image-text retrieval.

>>> import clipstore
>>> store = clipstore.open("store")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from clipstore.api import EmbeddingStore

__all__ = ["open"]


def open(folder: str | Path = "store") -> EmbeddingStore:  # noqa: A001  (read as clipstore.open)
    """The store in `folder`, for asking: `.sql`, `.vectors`, `.evaluate`."""
    from clipstore.api import EmbeddingStore

    return EmbeddingStore(folder)
