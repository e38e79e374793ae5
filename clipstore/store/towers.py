"""The towers of a model: those recorded in the catalog, and those of its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipstore.catalog import Session
from clipstore.device import best_precision, checked_device
from clipstore.encoders.fingerprint import files_key, fingerprint_towers
from clipstore.encoders.fingerprint_v1 import v1_fingerprints
from clipstore.errors import ModelError
from clipstore.records import IMPORTED, Model, PrecisionOption, Row, Tower
from clipstore.store.layout import Store
from clipstore.store.model_rows import model_of, tower_of
from clipstore.training_files import BEST


def recorded_towers(session: Session, model_id: int) -> tuple[Tower, ...]:
    """Returns the recorded towers of a model (image, then text), or none before it is first embedded."""
    return tuple(tower_of(row) for row in session.rows("model/towers", model_id=model_id))


def model_towers(
    store: Store, model: Model, precision: PrecisionOption, device: str | None = None
) -> tuple[tuple[Tower, ...], str]:
    """The towers of a model at a precision, and the key of the files that they depend on.

    The files are read only if their size or time has changed since the towers were recorded. The `precision` "auto" is
    the one that the model was embedded with, else that of a model with the same base, so that they share vectors, else
    the best one of the device.

    Raises:
        ModelError: the model's files cannot be obtained, or are invalid.
    """
    with store.catalog.read() as session:
        row = session.row("model/find", name=model.name)
        rows = session.rows("model/towers", model_id=row["model_id"]) if row else []
        embedded = session.row("model/precision", model=model.name, family=model.family, base=model.base)
    if precision == "auto":
        # A CUDA device may be one of another machine. With no device and a known precision torch is not loaded.
        if not (device and device.startswith("cuda")) and not (device is None and embedded):
            device = checked_device(device)
        precision = embedded["precision"] if embedded else best_precision(str(device))
    key = files_key(model, precision)
    if rows and rows[0]["files_key"] == key:
        return tuple(tower_of(tower) for tower in rows), key
    return _stored_towers(store, model, fingerprint_towers(model, precision)), key


def _stored_towers(store: Store, model: Model, towers: tuple[Tower, ...]) -> tuple[Tower, ...]:
    """The towers under the fingerprints that the store has shards of, which can be those of the legacy scheme."""
    legacy = v1_fingerprints(model, towers[0].precision)
    with store.catalog.read() as session:
        stored = {row["fingerprint"] for row in session.rows("model/shard_fingerprints")}

    def stored_fingerprint(current: str, component: str) -> str:
        return legacy[component] if current not in stored and legacy.get(component) in stored else current

    return tuple(
        replace(
            tower,
            fingerprint=stored_fingerprint(tower.fingerprint, tower.tower),
            backbone=tower.backbone and stored_fingerprint(tower.backbone, "backbone"),
        )
        for tower in towers
    )


def has_changed(session: Session, row: Row, model: Model) -> bool:
    """Whether a recorded model's job or files differ from those of its recorded towers.

    Files that were moved, copied or touched are hashed again. A model whose files are missing has not changed: its
    stored vectors remain valid.
    """
    recorded = model_of(row)
    towers = recorded_towers(session, row["model_id"])
    if not towers or model.family == IMPORTED:
        return recorded != model
    precision = towers[0].precision
    try:
        key = files_key(model, precision, fetch=False)
    except ModelError:
        return replace(recorded, adapter=_adapter_key(recorded)) != replace(model, adapter=_adapter_key(model))
    if key == session.rows("model/towers", model_id=row["model_id"])[0]["files_key"]:
        return False
    try:
        described = fingerprint_towers(model, precision, fetch=False)
    except ModelError:
        return True
    changed = [
        tower for tower, current in zip(towers, described, strict=True) if tower.fingerprint != current.fingerprint
    ]
    if not changed:  # the usual case: the legacy scheme is not computed
        return False
    legacy = v1_fingerprints(model, precision)
    return any(tower.fingerprint != legacy.get(tower.tower) for tower in changed)


def _adapter_key(model: Model) -> str | None:
    """Returns a model's adapter, without the path of the store if the store trained it."""
    parts = Path(model.adapter or "").parts[-3:]
    return str(Path(*parts)) if parts == ("adapters", model.name, BEST) else model.adapter
