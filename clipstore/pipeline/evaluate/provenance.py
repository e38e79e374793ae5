"""The provenance of a gallery and its vectors, which does not depend on ranks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import VectorError
from clipstore.records import GalleryProvenance, Model
from clipstore.store.digests import gallery_digest, split_digest
from clipstore.store.gallery import Gallery
from clipstore.store.layout import split_id
from clipstore.store.towers import recorded_towers

Ids = NDArray[np.int64]


def gallery_provenance(session: Session, model: Model, split: str, gallery: Gallery) -> GalleryProvenance:
    """The provenance of a model's gallery of a split.

    Raises:
        NotFoundError: there is no such split.
    """
    images, texts, target_split_id = gallery.images, gallery.texts, split_id(session, split)
    model_id = session.rows("model/find", name=model.name)[0]["model_id"]
    training_images = session.rows("model/training_images", model_id=model_id)[0]["training_images"]
    session.stage(ranked_images=images.table.select(["image_id"]), ranked_captions=texts.table.select(["caption_id"]))
    return GalleryProvenance(
        model_id=model_id,
        split_id=target_split_id,
        images=images.table.num_rows,
        captions=texts.table.num_rows,
        image_fingerprint=images.tower.fingerprint,
        text_fingerprint=texts.tower.fingerprint,
        precision=images.tower.precision,
        dtype="/".join(dict.fromkeys(dtype for side in (images, texts) for dtype in side.vectors.dtypes)),
        **gallery.missing,
        split_digest=split_digest(session, target_split_id),
        gallery_digest=gallery_digest(session, target_split_id),
        seen_images=len(seen_images(session, [model], gallery)) if training_images else None,
    )


def seen_images(session: Session, models: Iterable[Model], gallery: Gallery) -> Ids:
    """The ids (N,) of the gallery's images that one of the models was trained on."""
    ids = [row["model_id"] for model in models if (row := session.row("model/find", name=model.name))]
    session.stage(ranked_images=gallery.images.table.select(["image_id"]))
    return np.asarray(session.table("evaluate/seen_images", models=ids)["image_id"].to_numpy())


def check_gallery_unchanged(
    session: Session, model: Model, split: str, gallery: Gallery, before: GalleryProvenance
) -> None:
    """Check that a gallery that was ranked is still that of the catalog.

    Raises:
        NotFoundError: the split was removed.
        VectorError: the split or the vectors of the model have changed.
    """
    split_id(session, split)
    row = session.row("model/find", name=model.name)
    towers = recorded_towers(session, row["model_id"]) if row else ()
    if row and [tower.fingerprint for tower in towers] == [before.image_fingerprint, before.text_fingerprint]:
        after = gallery_provenance(session, model, split, gallery)
        if _identity(after) == _identity(before):
            return
    message = f"{split} or {model.name} changed during the evaluation; nothing was stored: run the same command again"
    raise VectorError(message)


def _identity(provenance: GalleryProvenance) -> tuple[int, int, str, str]:
    return provenance.model_id, provenance.split_id, provenance.split_digest, provenance.gallery_digest
