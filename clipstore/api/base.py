"""What the parts of `EmbeddingStore` share."""

from __future__ import annotations

import os
from pathlib import Path

from clipstore.api.arguments import File, checked
from clipstore.store.layout import Store


class StoreMethods:
    """Methods on one store. The catalog is open only while a method runs."""

    @checked
    def __init__(self, folder: File | None = None) -> None:
        self._store = Store(Path(folder or os.environ.get("CLIPSTORE_STORE") or "store").absolute())
