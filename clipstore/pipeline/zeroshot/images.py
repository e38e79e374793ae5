"""The images of a split with a vector of a model, and the provenance of their classification."""

from __future__ import annotations

from dataclasses import dataclass

from clipstore.catalog import Session
from clipstore.errors import ModelError, VectorError
from clipstore.hints import embed_command
from clipstore.records import IMPORTED, Model, Row, Tower
from clipstore.store.layout import Store, split_id
from clipstore.store.towers import recorded_towers
from clipstore.store.vectors import EmbeddedItems, embedded_items


@dataclass(frozen=True, kw_only=True)
class ModelImages:
    """The images of a split with a vector of a model.

    Attributes:
        text_tower: the tower that embeds the classes.
        provenance: the columns of `classifications` that model and images decide.
        warnings: lines about the vectors, or about images with contradictory classes.
    """

    model: Model
    images: EmbeddedItems
    text_tower: Tower
    provenance: Row
    warnings: tuple[str, ...]


def find_images(store: Store, session: Session, model: Model, split: str, *, partial: bool) -> ModelImages:
    """The images of a split with a vector of a model.

    Raises:
        NotFoundError: there is no such split.
        ModelError: the vectors of the model were imported.
        VectorError: images are not embedded yet (and not `partial`), or none has a vector.
    """
    if model.family == IMPORTED:
        message = (
            f"the vectors of {model.name} were imported: clipstore has no encoder for the texts of classes; name a "
            "model that clipstore embeds with"
        )
        raise ModelError(message)
    images, texts = embedded_items(store, session, model, split)
    command = f"run '{embed_command(model.name, split)} --only images'"
    if images.pending.num_rows and not partial:
        message = (
            f"{images.pending.num_rows} images of {split} have no vectors of {model.name} yet: {command}, or use "
            "--partial for the images embedded so far"
        )
        raise VectorError(message)
    if not images.table.num_rows:
        remedy = command if images.pending.num_rows else "'clipstore query item_failures' lists the reasons"
        message = f"no image of {split} has a vector of {model.name}: {remedy}"
        raise VectorError(message)
    session.stage(classified_images=images.table.select(["image_id"]))
    conflicts = session.rows("zeroshot/conflicting_images")
    return ModelImages(
        model=model,
        images=images,
        text_tower=texts.tower,
        provenance=_provenance(session, model, split, images, texts.tower) | {"conflicting_images": len(conflicts)},
        warnings=(*images.warnings, *_conflict_lines(conflicts)),
    )


def check_images_unchanged(session: Session, split: str, before: ModelImages) -> None:
    """Check that the images and classes that were scored are still those of the catalog.

    Raises:
        NotFoundError: the split was removed.
        VectorError: the split, its classes or the vectors of the model have changed.
    """
    model, provenance = before.model, before.provenance
    digests = _digests(session, split, before.images)
    row = session.row("model/find", name=model.name)
    towers = recorded_towers(session, row["model_id"]) if row else ()
    same = [tower.fingerprint for tower in towers] == [provenance["image_fingerprint"], provenance["text_fingerprint"]]
    if not same or any(digests[key] != provenance[key] for key in digests):
        message = f"{split} or {model.name} changed meanwhile; nothing was stored: run the same command again"
        raise VectorError(message)


def _provenance(session: Session, model: Model, split: str, images: EmbeddedItems, text_tower: Tower) -> Row:
    model_id = session.rows("model/find", name=model.name)[0]["model_id"]
    trained = session.rows("model/training_images", model_id=model_id)[0]["training_images"]
    session.stage(ranked_images=images.table.select(["image_id"]))
    seen = session.table("evaluate/seen_images", models=[model_id]).num_rows
    return {
        "model_id": model_id,
        "images": images.table.num_rows,
        "left_out_images": images.left_out.num_rows,
        "pending_images": images.pending.num_rows,
        "seen_images": seen if trained else None,
        "image_fingerprint": images.tower.fingerprint,
        "text_fingerprint": text_tower.fingerprint,
        "precision": images.tower.precision,
        "dtype": "/".join(images.vectors.dtypes),
        **_digests(session, split, images),
    }


def _digests(session: Session, split: str, images: EmbeddedItems) -> Row:
    """The split's id, and the digests of its labels and of those of the images."""
    target_split_id = split_id(session, split)
    session.stage(classified_images=images.table.select(["image_id"]))
    return {"split_id": target_split_id, **session.rows("zeroshot/digests", split_id=target_split_id)[0]}


def _conflict_lines(conflicts: list[Row]) -> list[str]:
    if not conflicts:
        return []
    first = conflicts[0]
    return [
        f"{len(conflicts):,} images have the same image file as an image of another class, such as "
        f"{first['file_name']!r} and {first['other']!r}: one of them counts as wrong"
    ]
