"""`clipstore info`: the contents and disk use of a store, and the versions of the packages in use."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clipstore.catalog import FORMAT_VERSION
from clipstore.errors import NotFoundError, is_path_name
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.store.storage import shard_storage

_PACKAGES = (
    "clipstore", "duckdb", "torch", "transformers", "tokenizers", "peft", "safetensors", "h5py", "numpy", "pyarrow",
    "pillow", "click",
)  # fmt: skip


def store_info(store: Store) -> Row:
    """The format, row counts and disk use of a store, in total and by model, and the versions of the packages in use.

    "store" is None if there is no store. A model's "shard_bytes" are those of the shards with its vectors, of which
    "own_shard_bytes" belong to no other model.

    Raises:
        CatalogError: the catalog is damaged, was written by a newer clipstore, or is held by another process.
    """
    installed = {name: _version(name) for name in _PACKAGES}
    versions = {"python": platform.python_version()} | {name: text for name, text in installed.items() if text}
    shared: Row = {"versions": versions, "platform": platform.platform(), "format_read": FORMAT_VERSION}
    try:
        with store.catalog.read() as session:
            stored = session.rows("catalog/format")[0]
            counts = session.rows("info/counts")[0]
            models = session.rows("info/models")
    except NotFoundError:
        return {"store": None, "folder": str(store.root), **shared}
    storage = shard_storage(store)
    for row in models:
        row["adapter_bytes"] = folder_bytes(store.adapter(row["model"])) if is_path_name(row["model"]) else 0
    return {
        "store": str(store.root),
        "folder": str(store.root),
        "format": stored["version"],
        "shards_in": storage.location("shards"),
        "counts": counts,
        "bytes": {
            "catalog": store.catalog.path.stat().st_size,
            **{folder: sum(file.size for file in storage.files(folder).values()) for folder in ("shards", "scores")},
            "adapters": folder_bytes(store.adapters),
            "reports": folder_bytes(store.reports),
        },
        "models": models,
        **shared,
    }


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder; of a link, those of the link itself."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_symlink() or file.is_file())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
