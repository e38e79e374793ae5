"""clipstore: an embedding store and batch indexing system for image-text retrieval.

>>> import clipstore
>>> store = clipstore.open("store")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from clipstore.notebook import Notebook

__all__ = ["open"]


def open(folder: str | Path = "store") -> Notebook:  # noqa: A001  (read as clipstore.open)
    """The store in `folder`, for asking: `.sql`, `.vectors`, `.evaluate`."""
    from clipstore.notebook import Notebook

    return Notebook(folder)
