"""Verify stored vectors that have no probe, as earlier versions left them, by computing a sample again.

Their fingerprints, which an earlier version computed, can be equal although the vectors differ. Vectors that agree keep
their fingerprint and get a probe; others are not used, and the model is embedded under its current fingerprint.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clipstore.device import checked_device
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.probe_check import LARGEST_BF16_DISTANCE, LARGEST_DISTANCE
from clipstore.errors import ModelError
from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import EncodeSettings
from clipstore.records import Model, Row, ShardPlan, Tower
from clipstore.shards import gather, normalize
from clipstore.store.layout import Store
from clipstore.store.probes import add_probes, check_probes, tower_fingerprints
from clipstore.store.recovery import save_records
from clipstore.store.registry import registered_shards

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder

_VERIFIED_ITEMS = {"image": 2, "text": 16}  # items of each shard
_MEMORY = 2**30  # for the batches of a sample

Towers = tuple[Tower, ...]


def verified_towers(store: Store, model: Model, towers: Towers, device: str | None = None) -> Towers:
    """A model's towers, with current fingerprints where a sample of the vectors stored without a probe differs.

    Raises:
        ModelError: the model cannot be loaded, or its vectors differ from those stored under current fingerprints.
    """
    components = [
        (tower, component, fingerprint)
        for tower in towers
        for component, fingerprint in tower_fingerprints(tower).items()
    ]
    with store.catalog.read() as session:
        rows = session.rows("model/unprobed", fingerprints=[fingerprint for _, _, fingerprint in components])
    unverified = {row["fingerprint"] for row in rows}
    if not unverified:
        return towers
    from clipstore.encoders.encoder import Encoder
    from clipstore.encoders.loading import load_model

    encoder = Encoder(load_model(model), precision=towers[0].precision, device=checked_device(device))
    different = {
        fingerprint
        for tower, component, fingerprint in components
        if fingerprint in unverified and not _sample_agrees(store, model, tower, component, encoder)
    }
    towers = _with_current_fingerprints(model, towers, different)
    probes = check_probes(store, model.name, towers, encoder)
    with store.catalog.write() as session:
        add_probes(session, [row for row in probes if row["fingerprint"] in unverified])
        save_records(session, store, "fingerprints")
    return towers


def _with_current_fingerprints(model: Model, towers: Towers, different: set[str]) -> Towers:
    """The towers with the fingerprints in `different` replaced by current ones.

    Raises:
        ModelError: one of them is current.
    """
    if not different:
        return towers
    current = fingerprint_towers(model, towers[0].precision)
    wrong = different & {fingerprint for tower in current for fingerprint in tower_fingerprints(tower).values()}
    if wrong:
        message = (
            f"{model.name} does not give the vectors that are stored under its fingerprint {min(wrong)[:12]}: embed it "
            "into another store with --store, or remove that folder of shards and run the same command again"
        )
        raise ModelError(message)
    return tuple(
        replace(
            tower,
            fingerprint=now.fingerprint if tower.fingerprint in different else tower.fingerprint,
            backbone=now.backbone if tower.backbone in different else tower.backbone,
        )
        for tower, now in zip(towers, current, strict=True)
    )


def _sample_agrees(store: Store, model: Model, tower: Tower, component: str, encoder: Encoder) -> bool:
    """Whether a sample of the stored vectors (or features) of a tower's component is recomputed within tolerance.

    Items whose image files are gone are left out. An empty sample agrees.
    """
    sample = _sample(store, model, tower, tower_fingerprints(tower)[component])
    if not sample:
        return True
    plan = ShardPlan(
        tower=tower,
        source="image_files" if tower.tower == "image" else "texts",
        contents=[row["content"] for row in sample],
        sources=[row["source"] for row in sample],
        rows=[],
    )
    tokens = encoder.batch_tokens(tower.tower, _MEMORY)
    computed = encode_rows(plan, EncodeSettings(folder=store.shards, model=model, encoder=encoder, batch_tokens=tokens))
    values = computed.features if component == "backbone" else computed.vectors
    if values is None or not computed.contents:
        return True
    by_content = {row["content"]: row for row in sample}
    rows = [by_content[content] for content in computed.contents]
    files = sorted({row["file"] for row in rows})
    with store.catalog.read() as session:
        registered = registered_shards(session, store, files)
    stored = gather(
        [registered[file] for file in files],
        np.array([files.index(row["file"]) for row in rows]),
        np.array([row["row"] for row in rows]),
    )
    cosines = (normalize(values, "float64") * normalize(stored.astype(np.float32), "float64")).sum(axis=1)
    largest = LARGEST_BF16_DISTANCE if tower.precision == "bf16" else LARGEST_DISTANCE
    return bool(1 - cosines.min() <= largest)


def _sample(store: Store, model: Model, tower: Tower, fingerprint: str) -> list[Row]:
    parameters = {"fingerprint": fingerprint, "count": _VERIFIED_ITEMS[tower.tower]}
    with store.catalog.read() as session:
        if tower.tower == "image":
            return session.rows("model/sample_images", **parameters)
        return session.rows("model/sample_captions", prompt=model.prompt, clean=model.clean, **parameters)
