"""What compiled loops need: numba's `njit`, whose machine code is cached on disk, or for one process where no folder is
writable; and rows whose vectors are within lines of the processor's cache.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from typing import Any

import numpy as np
from numba import config, njit
from numpy.typing import DTypeLike, NDArray

__all__ = ["CACHE_LINE", "copy_values", "empty_rows", "njit"]

CACHE_LINE = 64  # bytes

_log = logging.getLogger(__name__)


def _example() -> None:
    """A function in this package: numba looks for a folder when it is decorated."""


try:
    njit(cache=True)(_example)
except RuntimeError:  # neither the package's folder nor the user's cache folder
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="clipstore-")  # for the processes that this one starts, too
    config.reload_config()
    atexit.register(shutil.rmtree, os.environ["NUMBA_CACHE_DIR"], ignore_errors=True)
    _log.warning(
        "clipstore: warning: each process compiles its loops, which takes seconds: "
        "set NUMBA_CACHE_DIR to a folder that it can write"
    )


@njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def copy_values(target: Any, source: Any) -> None:  # pragma: no cover - compiled
    """Set the values (n,) of an array: numba takes a second or two longer to compile the assignment of an array."""
    for n in range(len(target)):
        target[n] = source[n]


def empty_rows(count: int, width: int, kind: DTypeLike) -> NDArray[Any]:
    """Rows (count, width) of a type, not set, that start with a line of the cache.

    numpy's arrays start 16 bytes after one, so that the processor reads two lines for each vector.
    """
    size = count * width * np.dtype(kind).itemsize
    memory = np.empty(size + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size].view(kind).reshape(count, width)
