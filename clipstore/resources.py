"""Paths of the files that ship beside the code, `sql/` and `jobs/`, in a checkout and in a wheel; the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).parent


def packaged_folder(name: str) -> Path:
    """The folder `name` ("sql" or "jobs"): `clipstore/_data/NAME` in a wheel, `NAME` in a checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def user_cache() -> Path:
    """The folder for what can be made again: clipstore/ in $XDG_CACHE_HOME, else in ~/.cache.

    Raises:
        OSError: neither XDG_CACHE_HOME nor HOME is set, and the user has no home folder, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipstore"
    except RuntimeError as error:
        message = "the user has no home folder: set XDG_CACHE_HOME"
        raise OSError(message) from error
