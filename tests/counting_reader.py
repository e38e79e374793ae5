"""A reader of image files that counts them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from threading import Lock


class CountingReader:
    """Reads files and counts them."""

    def __init__(self) -> None:
        self.reads: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, path: Path) -> bytes:
        with self._lock:
            self.reads[path.name] += 1
        return path.read_bytes()
