"""The stored probe of a fingerprint, which tests that equal fingerprints have equal vectors.

When a fingerprint is first used, the vectors of a fixed image and a fixed caption are stored in the catalog. Whenever a
model with that fingerprint is loaded again, to embed, train, export or retrieve, its vectors must be equal to them:
another version of a library, or another device, can compute other vectors from the same files.
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
from clipstore.hints import embed_command
from clipstore.records import IMPORTED, MatchingHead, Model, Row, Tower
from clipstore.store.layout import Store
from clipstore.store.towers import has_changed, recorded_towers

if TYPE_CHECKING:
    from clipstore.encoders.blip_matching import BlipMatcher
    from clipstore.encoders.encoder import Encoder

# The largest valid 1 - cosine, at the precision that the fingerprint covers. Kinds of devices round bf16 differently:
# 1 - cosine to fp32 is 1e-5 to 1e-4 there.
LARGEST_DISTANCE = 1e-4
LARGEST_BF16_DISTANCE = 1e-3

_log = logging.getLogger(__name__)

_SOFTWARE = ("torch", "transformers", "peft", "tokenizers", "pillow")

Floats = NDArray[np.float32]


def check_current_probes(store: Store, model: Model, encoder: Encoder) -> None:
    """Compare the probes of a model loaded in fp32 with those of its current towers, of any precision.

    A model that was never embedded, or has changed since, has no probes to compare.

    Raises:
        ModelError: the model's vector differs from the stored probe of a fingerprint.
    """
    towers: tuple[Tower, ...] = ()
    with suppress(NotFoundError), store.catalog.read() as session:  # the store may not exist yet
        row = session.row("model/find", name=model.name)
        if row and not has_changed(session, row, model):
            towers = recorded_towers(session, row["model_id"])
    if towers:
        check_probes(store, model.name, towers, encoder, precision="fp32")


def check_probes(
    store: Store, model: str, towers: Iterable[Tower], encoder: Encoder, *, precision: str | None = None
) -> list[Row]:
    """Compare the probes of a loaded model with the stored ones. Returns the probes to store with `add_probes`.

    `precision` is that of the encoder, if it differs from the towers'.

    Raises:
        ModelError: the model's vector differs from the stored probe of a fingerprint.
    """
    vectors, device, new = encoder.probe(), encoder.device.type, []
    with store.catalog.read() as session:
        components = [(tower, *component) for tower in towers for component in tower_fingerprints(tower).items()]
        for tower, component, fingerprint in components:
            row = session.row("model/probe", fingerprint=fingerprint)
            if row:
                same_rounding = device == row["device"] and precision in (None, tower.precision)
                words = f"{model}: the vectors of the {tower.tower} tower"
                _check(words, tower, vectors[component], row, device, same_rounding=same_rounding)
            else:
                probe = {"fingerprint": fingerprint, "device": device, "software": _software()}
                new.append(probe | {"vector": vectors[component].tolist()})
    return new


def check_head_probe(store: Store, model: str, head: MatchingHead, matcher: BlipMatcher) -> list[Row]:
    """Compare the probe of a loaded matching head with the stored one. Returns the probe to store with `add_probes`.

    Raises:
        ModelError: its state differs from the stored probe of the fingerprint.
    """
    vector, device = matcher.probe(), matcher.device.type
    with store.catalog.read() as session:
        row = session.row("model/probe", fingerprint=head.fingerprint)
    if row is None:
        probe = {"fingerprint": head.fingerprint, "device": device, "software": _software()}
        return [probe | {"vector": vector.tolist()}]
    words = f"{model}: the states of the matching head"
    _check(words, head, vector, row, device, same_rounding=device == row["device"])
    return []


def tower_fingerprints(tower: Tower) -> dict[str, str]:
    """The fingerprint of a tower by its name and, for an image tower, that of its "backbone"."""
    return {tower.tower: tower.fingerprint} | ({"backbone": tower.backbone} if tower.backbone else {})


def unchecked_warnings(session: Session, model: str, family: str, split: str, fingerprints: Iterable[str]) -> list[str]:
    """A warning about vectors without a probe, which an older version of clipstore wrote. Otherwise none.

    The warning is also logged. Equal fingerprints of that version can have different vectors. The next
    `clipstore embed` of the model compares a sample.
    """
    if family == IMPORTED:
        return []
    if not session.rows("model/count_unprobed", fingerprints=list(fingerprints))[0]["unchecked"]:
        return []
    line = (
        f"vectors of {model} were written by an older version of clipstore and are not verified yet: "
        f"run '{embed_command(model, split)}'"
    )
    _log.warning("clipstore: warning: %s", line)
    return [line]


def add_probes(session: Session, probes: Iterable[Row]) -> None:
    """Store the probes of fingerprints that have none."""
    for row in probes:
        if session.row("model/probe", fingerprint=row["fingerprint"]) is None:
            session.run("model/add_probe", **row)


def _check(
    words: str, tower: Tower | MatchingHead, vector: Floats, row: Row, device: str, *, same_rounding: bool
) -> None:
    stored = np.array(row["vector"], dtype=np.float64)
    distance = _distance(vector.astype(np.float64), stored)
    largest = LARGEST_BF16_DISTANCE if tower.precision == "bf16" and not same_rounding else LARGEST_DISTANCE
    if distance > largest:
        message = (
            f"{words} differ from those stored under its fingerprint "
            f"{tower.fingerprint[:12]} (cosine {1 - distance:.5f} for the probe): they were computed on "
            f"{row['device']} with {row['software']}; this run uses {device} with {_software()}: install the earlier "
            "versions, or use another --store"
        )
        raise ModelError(message)


def _distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """1 - cosine. If a vector has no direction (zero or non-finite): 0 if neither has one, else 2."""
    if first.shape != second.shape:
        return 2.0
    norms = [float(np.linalg.norm(vector)) for vector in (first, second)]
    valid = [np.isfinite(norm) and norm > 0 for norm in norms]
    if not all(valid):
        return 0.0 if not any(valid) else 2.0
    return 1.0 - float((first / norms[0]) @ (second / norms[1]))


def _software() -> str:
    return ", ".join(f"{name} {version(name)}" for name in _SOFTWARE)
