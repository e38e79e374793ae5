"""numba's `njit` for loops whose machine code is cached on disk, or for one process where no folder is writable."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from typing import Any

from numba import config, njit

__all__ = ["copy_values", "njit"]

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
