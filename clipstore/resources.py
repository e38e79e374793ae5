"""Where the files that ship beside the code lie: `sql/` and `jobs/`, in a checkout and in a wheel alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The packaged folder `name` ("sql" or "jobs"): in a wheel `clipstore/_data/NAME`, in a checkout `NAME`."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
