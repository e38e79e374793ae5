"""The gallery of a split for a model, and the models that have one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import JobError, ModelError, NotFoundError, VectorError
from clipstore.hints import embed_command
from clipstore.records import Model, Row
from clipstore.store.layout import Store, split_id
from clipstore.store.models import find_model
from clipstore.store.vectors import EmbeddedItems, embedded_items, missing_vectors_hint

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The images of a split that have a vector, and their captions that have one.

    Attributes:
        pairs: (P, 2), row of an image and row of its caption, in the order of the captions.
        images_in_split: the number of images of the split.
        missing: the numbers of images and captions that are not in the gallery, by reason.
    """

    images: EmbeddedItems
    texts: EmbeddedItems
    pairs: NDArray[np.int64]
    images_in_split: int
    missing: Row


def find_gallery(
    store: Store, session: Session, model: Model, split: str, *, partial: bool | None, first_captions: int | None = None
) -> Gallery:
    """The gallery of a split for a model, with the first `first_captions` captions of each image (None: all).

    Raises:
        NotFoundError: there is no such split.
        VectorError: items are not embedded yet and `partial` is false (None: the command has no --partial), or the
            gallery is empty.
    """
    images, texts = embedded_items(store, session, model, split, first_captions)
    if not partial and (images.pending.num_rows or texts.pending.num_rows):
        message = (
            f"{images.pending.num_rows} images and {texts.pending.num_rows} captions of {split} have no vectors of "
            f"{model.name} yet: {missing_vectors_hint(model, split)}"
            + ("" if partial is None else ", or use --partial for the items embedded so far")
        )
        raise VectorError(message)
    row = pc.index_in(texts.table["image_id"], images.table["image_id"])
    missing = _missing(images, texts, row.is_null())
    texts = texts.select(row.is_valid().to_numpy())
    if not texts.table.num_rows:
        if images.table.num_rows and not any(missing.values()):
            message = f"the images of {split} have no captions: 'clipstore zeroshot' classifies images without captions"
            raise VectorError(message)
        raise _empty_gallery(model, split, missing)
    image_rows = row.drop_null().to_numpy().astype(np.int64)
    return Gallery(
        images=images,
        texts=texts,
        pairs=np.stack([image_rows, np.arange(len(image_rows))], axis=1),
        images_in_split=images.table.num_rows + images.left_out.num_rows + images.pending.num_rows,
        missing=missing,
    )


def _missing(images: EmbeddedItems, texts: EmbeddedItems, without_image: NDArray[np.bool_]) -> Row:
    """The numbers of missing items. A caption whose image is missing is counted under the reason of its image."""
    dropped = texts.table.filter(without_image)
    left_out = pc.sum(pc.is_in(dropped["image_id"], images.left_out["image_id"])).as_py() or 0
    return {
        "left_out_images": images.left_out.num_rows,
        "left_out_captions": texts.left_out.num_rows + left_out,
        "pending_images": images.pending.num_rows,
        "pending_captions": texts.pending.num_rows + dropped.num_rows - left_out,
    }


def _empty_gallery(model: Model, split: str, missing: Row) -> VectorError:
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in missing.items() if count)
    pending = missing["pending_images"] or missing["pending_captions"]
    return VectorError(
        f"no image of {split} has both an image vector and a caption vector of {model.name} "
        f"({reasons or 'the split is empty'}): "
        + (missing_vectors_hint(model, split) if pending else "'clipstore query item_failures' lists the reasons")
    )


def prepare_models(
    store: Store, session: Session, names: Iterable[str], split: str, build: Callable[[Model], Prepared]
) -> tuple[list[tuple[Model, Prepared]], list[Row]]:
    """Returns the models with their results of `build`, and the skipped models ("model" and "reason").

    Without names, `build` is called for every model that has vectors of the split, and a model for which it raises an
    error is skipped.

    Raises:
        NotFoundError: there is no such split.
        VectorError: no names are given and no model is complete.
        ClipstoreError: `build` raises it for a named model.
    """
    target_split_id = split_id(session, split)
    if distinct := list(dict.fromkeys(names)):
        models = {model.name: model for model in [find_model(store, name) for name in distinct]}
        return [(model, build(model)) for model in models.values()], []
    prepared, skipped = [], []
    for row in session.rows("evaluate/models", split_id=target_split_id):
        try:
            model = find_model(store, row["name"])
            prepared.append((model, build(model)))
        except (VectorError, NotFoundError, ModelError, JobError) as error:
            skipped.append({"model": row["name"], "reason": str(error)})
    if not prepared:
        raise _no_complete_model(split, skipped)
    return prepared, skipped


def _no_complete_model(split: str, skipped: list[Row]) -> VectorError:
    if not skipped:
        return VectorError(f"no model has vectors of {split} yet: run '{embed_command('NAME', split)}' first")
    others = len(skipped) - 1
    note = f" ({others} other model{'s are' if others > 1 else ' is'} also incomplete)" if others else ""
    return VectorError(skipped[0]["reason"] + note)
