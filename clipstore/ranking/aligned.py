"""Arrays that are aligned to the processor's cache lines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

CACHE_LINE = 64  # bytes


def empty_rows(count: int, width: int, kind: DTypeLike) -> NDArray[Any]:
    """Rows (count, width) of a type, not set, of which the first is aligned to cache lines.

    Others are where the size of a row is a multiple. numpy's large arrays start 16 bytes after a cache line, so that
    the processor reads two lines for each vector of 64 bytes.
    """
    size = count * width * np.dtype(kind).itemsize
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(kind).reshape(count, width)
