"""Models and towers as rows of the catalog."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from clipstore.errors import NotFoundError, is_path_name, path_name
from clipstore.records import Model, Row, Tower
from clipstore.store.layout import Store
from clipstore.training_files import BEST

ORIGINS = ("job", "added", "imported")  # origin of a recorded model

MODEL_FIELDS = tuple(field.name for field in fields(Model))
_TOWER_FIELDS = tuple(field.name for field in fields(Tower))


def model_of(row: Row) -> Model:
    """The model that a row describes."""
    return Model(**{name: row[name] for name in MODEL_FIELDS})


def tower_of(row: Row) -> Tower:
    """The tower that a row describes.

    Raises:
        BadNameError: a fingerprint, which is the name of a folder of shards, is no name of a folder.
    """
    for fingerprint in filter(None, (row["fingerprint"], row["backbone"])):
        path_name("fingerprint", fingerprint)
    return Tower(**{name: row[name] for name in _TOWER_FIELDS})


def recorded_models(store: Store) -> dict[str, Row]:
    """Returns the rows of the models in the catalog by name, or none if there is no store yet.

    An adapter that this store trained gets its current path, because a store can be moved or copied.
    """
    rows: dict[str, Row] = {}
    with suppress(NotFoundError), store.catalog.read() as session:
        rows = {row["name"]: row for row in session.rows("model/list")}
    for name, row in rows.items():
        if not is_path_name(name):  # an earlier version allowed such job files
            continue
        adapter = store.adapter(name) / BEST
        if row["adapter"] and Path(row["adapter"]).parts[-3:] == adapter.parts[-3:] and adapter.is_dir():
            row["adapter"] = str(adapter)
    return rows


def differences(row: Row, model: Model) -> str:
    """The fields in which a recorded model differs from `model`: the recorded values, then those of `model`."""
    return " and ".join(
        f"{key} {row[key]!r} (not {getattr(model, key)!r})" for key in MODEL_FIELDS if row[key] != getattr(model, key)
    )
