"""The stored probe of a fingerprint: equal fingerprints promise equal vectors, and here the promise is tested.

When a fingerprint is first used, the vectors of a fixed image and a fixed caption go into the catalog. Whenever a model
with that fingerprint is loaded again, to embed, train, export or ask a query, it must give them again: another version
of a library, or another device, may compute differently from the same files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import ModelError, NotFoundError
from clipstore.records import Model, Row, Tower
from clipstore.store.layout import Store
from clipstore.store.models import IMPORTED, current_towers, has_changed

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

# The largest 1 - cosine, at the precision that the fingerprint covers. Between kinds of devices bf16 rounds otherwise:
# 1 - cosine to fp32 is 1e-5 to 1e-4 there.
LARGEST_DISTANCE = 1e-4
LARGEST_BF16_DISTANCE = 1e-3

_log = logging.getLogger(__name__)

_SOFTWARE = ("torch", "transformers", "peft", "tokenizers", "pillow")

Floats = NDArray[np.float32]


def check_current_probes(store: Store, model: Model, encoder: ClipEncoder) -> None:
    """Compare the probes of a model loaded in fp32 with those of its current towers, whatever their precision.

    A model that was never embedded, or has changed since, has none to compare.

    Raises:
        ModelError: a fingerprint has a stored probe, and the model gives another vector.
    """
    towers: tuple[Tower, ...] = ()
    with suppress(NotFoundError), store.catalog.read() as session:  # a model can be loaded before there is a store
        row = session.row("model/find", name=model.name)
        if row and not has_changed(session, row, model):
            towers = current_towers(session, row["model_id"])
    if towers:
        check_probes(store, model.name, towers, encoder, precision="fp32")


def check_probes(
    store: Store, model: str, towers: Iterable[Tower], encoder: ClipEncoder, *, precision: str | None = None
) -> list[Row]:
    """Compare the probes of a loaded model with the stored ones; those that are not stored yet, for `add_probes`.

    `precision` is what the encoder computes in, where that is not the towers' own.

    Raises:
        ModelError: a fingerprint has a stored probe, and the model gives another vector.
    """
    vectors, device, fresh = encoder.probe(), encoder.device.type, []
    with store.catalog.read() as session:
        parts = [(tower, *part) for tower in towers for part in parts_of(tower).items()]
        for tower, part, fingerprint in parts:
            row = session.row("model/probe", fingerprint=fingerprint)
            if row:
                rounded_otherwise = device != row["device"] or precision not in (None, tower.precision)
                _check(model, tower, vectors[part], row, device, rounded_otherwise=rounded_otherwise)
            else:
                own = {"fingerprint": fingerprint, "device": device, "software": _software()}
                fresh.append(own | {"vector": vectors[part].tolist()})
    return fresh


def parts_of(tower: Tower) -> dict[str, str]:
    """The fingerprints of a tower by what they are of: the tower itself and, of an image tower, its "backbone"."""
    return {tower.tower: tower.fingerprint} | ({"backbone": tower.backbone} if tower.backbone else {})


def warn_unchecked(session: Session, model: str, family: str, split: str, fingerprints: Iterable[str]) -> list[str]:
    """What to say of vectors that an older clipstore made, which have no probe: a line, logged too; else none.

    Its fingerprints could be equal where vectors are not. The next `clipstore embed` of the model compares a few.
    """
    if family == IMPORTED:
        return []
    if not session.rows("model/count_unprobed", fingerprints=list(fingerprints))[0]["unchecked"]:
        return []
    line = (
        f"vectors of {model} were made by an older clipstore and are not checked yet: "
        f"run 'clipstore embed --model {model} --split {split}'"
    )
    _log.warning("clipstore: warning: %s", line)
    return [line]


def add_probes(session: Session, probes: Iterable[Row]) -> None:
    """Note the probes of fingerprints that are used for the first time."""
    for row in probes:
        if session.row("model/probe", fingerprint=row["fingerprint"]) is None:
            session.run("model/add_probe", **row)


def _check(model: str, tower: Tower, vector: Floats, row: Row, device: str, *, rounded_otherwise: bool) -> None:
    stored = np.array(row["vector"], dtype=np.float64)
    distance = _distance(vector.astype(np.float64), stored)
    largest = LARGEST_BF16_DISTANCE if rounded_otherwise and tower.precision == "bf16" else LARGEST_DISTANCE
    if distance > largest:
        message = (
            f"{model}: the {tower.tower} tower has the fingerprint {tower.fingerprint[:12]}, and gives other vectors "
            f"than those stored under it (cosine {1 - distance:.5f} for the stored probe): they were made on "
            f"{row['device']} with {row['software']}, now it is {device} with {_software()}; go back to those, or take "
            "another --store"
        )
        raise ModelError(message)


def _distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """1 - cosine; between vectors that have no direction (zero, not finite) 0 where both are so, else 2."""
    if one.shape != other.shape:
        return 2.0
    norms = [float(np.linalg.norm(vector)) for vector in (one, other)]
    valid = [np.isfinite(norm) and norm > 0 for norm in norms]
    if not all(valid):
        return 0.0 if not any(valid) else 2.0
    return 1.0 - float((one / norms[0]) @ (other / norms[1]))


def _software() -> str:
    return ", ".join(f"{name} {version(name)}" for name in _SOFTWARE)
