"""The stored probe of a fingerprint, which tests that equal fingerprints have equal vectors.

When a fingerprint is first used, the vectors of a fixed image and a fixed caption are stored in the catalog. Whenever a
model with that fingerprint is loaded again, to embed, train, export or retrieve, its vectors must be equal to them:
another version of a library, or another device, can compute other vectors from the same files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from clipstore.catalog import Session
from clipstore.encoders.probe_check import check_probe, software
from clipstore.errors import NotFoundError
from clipstore.hints import embed_command
from clipstore.records import IMPORTED, MatchingHead, Model, Row, Tower
from clipstore.store.layout import Store
from clipstore.store.towers import has_changed, recorded_towers

if TYPE_CHECKING:
    from clipstore.encoders.blip_matching import BlipMatcher
    from clipstore.encoders.encoder import Encoder

_log = logging.getLogger(__name__)


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
                check_probe(words, tower, vectors[component], row, device, same_rounding=same_rounding)
            else:
                probe = {"fingerprint": fingerprint, "device": device, "software": software()}
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
        probe = {"fingerprint": head.fingerprint, "device": device, "software": software()}
        return [probe | {"vector": vector.tolist()}]
    words = f"{model}: the states of the matching head"
    check_probe(words, head, vector, row, device, same_rounding=device == row["device"])
    return []


def stored_probes(session: Session, tower: Tower) -> dict[str, Row]:
    """The stored probes of a tower and its backbone, by component; see `tower_fingerprints`."""
    rows = {
        component: session.row("model/probe", fingerprint=fingerprint)
        for component, fingerprint in tower_fingerprints(tower).items()
    }
    return {
        component: row | {"fingerprint": tower_fingerprints(tower)[component]} for component, row in rows.items() if row
    }


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
