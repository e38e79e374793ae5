"""Stored vectors without a probe, as an older clipstore left them: a few are computed again before they are used.

Its fingerprints could be equal where vectors are not. What agrees keeps its fingerprint, and gets a probe; what does
not is left alone, and the model is embedded under today's fingerprint.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from clipstore import shards
from clipstore.device import checked_device
from clipstore.encoders.fingerprint import describe
from clipstore.errors import ModelError
from clipstore.inference.encode import EncodeSettings, encode_rows
from clipstore.records import Model, Row, ShardPlan, Tower
from clipstore.shards import normalised
from clipstore.store.layout import Store
from clipstore.store.probes import LARGEST_BF16_DISTANCE, LARGEST_DISTANCE, add_probes, check_probes, parts_of

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

_SAMPLE = {"image": 2, "text": 16}  # items of each shard
_MEMORY = 2**30  # for the few

Towers = tuple[Tower, ...]


def proven_towers(store: Store, model: Model, towers: Towers, device: str | None = None) -> Towers:
    """A model's towers, those whose stored vectors it does not give again under today's fingerprints.

    Raises:
        ModelError: the model cannot be loaded, or does not give what is stored under today's fingerprints already.
    """
    own = {part: fingerprint for tower in towers for part, fingerprint in parts_of(tower).items()}
    with store.catalog.read() as session:
        rows = session.rows("model/unproven", fingerprints=list(own.values()))
    unproven = {row["fingerprint"] for row in rows}
    if not unproven:
        return towers
    from clipstore.encoders.clip import ClipEncoder
    from clipstore.encoders.loading import load_clip

    encoder = ClipEncoder(load_clip(model), precision=towers[0].precision, device=checked_device(device))
    different = {
        fingerprint
        for tower in towers
        for part, fingerprint in parts_of(tower).items()
        if fingerprint in unproven and not _agree(store, model, tower, part, encoder)
    }
    towers = _renamed(model, towers, different)
    fresh = check_probes(store, model.name, towers, encoder)
    with store.catalog.write() as session:
        add_probes(session, [row for row in fresh if row["fingerprint"] in unproven])
    return towers


def _renamed(model: Model, towers: Towers, different: set[str]) -> Towers:
    """The towers with today's fingerprints in the place of some."""
    if not different:
        return towers
    today = describe(model, towers[0].precision)
    stuck = different & {fingerprint for tower in today for fingerprint in parts_of(tower).values()}
    if stuck:
        message = (
            f"{model.name} does not give the vectors that are stored under its fingerprint {min(stuck)[:12]}: embed it "
            "into another store with --store, or remove that folder of shards and run the same command again"
        )
        raise ModelError(message)
    return tuple(
        replace(
            tower,
            fingerprint=now.fingerprint if tower.fingerprint in different else tower.fingerprint,
            backbone=now.backbone if tower.backbone in different else tower.backbone,
        )
        for tower, now in zip(towers, today, strict=True)
    )


def _agree(store: Store, model: Model, tower: Tower, part: str, encoder: ClipEncoder) -> bool:
    """Whether a few of the items stored for a part of a tower have the same vectors (or features) today.

    Images that are gone cannot be read again: those that are left decide.
    """
    sample = _sample(store, model, tower, parts_of(tower)[part])
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
    how = EncodeSettings(
        folder=store.shards, model=model, encoder=encoder, batch_tokens=tokens, on_progress=lambda _items: None
    )
    made = encode_rows(plan, how)
    features = made.features if part == "backbone" else made.vectors
    if features is None or not made.contents:
        return True
    place = {row["content"]: row for row in sample}
    files = sorted({row["file"] for row in sample})
    stored = shards.gather(
        [store.root / file for file in files],
        np.array([files.index(place[content]["file"]) for content in made.contents]),
        np.array([place[content]["row"] for content in made.contents]),
    )
    cosines = (normalised(features, "float64") * normalised(stored.astype(np.float32), "float64")).sum(axis=1)
    least = LARGEST_BF16_DISTANCE if tower.precision == "bf16" else LARGEST_DISTANCE
    return bool(1 - cosines.min() <= least)


def _sample(store: Store, model: Model, tower: Tower, fingerprint: str) -> list[Row]:
    asked = {"fingerprint": fingerprint, "count": _SAMPLE[tower.tower]}
    with store.catalog.read() as session:
        if tower.tower == "image":
            return session.rows("model/sample_images", **asked)
        return session.rows("model/sample_captions", prompt=model.prompt, clean=model.clean, **asked)
