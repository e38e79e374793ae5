"""The map of a split's embeddings: every image and caption as a point in a plane."""

from __future__ import annotations

import numpy as np

from clipstore.errors import VectorError
from clipstore.hints import eval_command
from clipstore.progress import Progress, no_progress
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.store.vectors import read_vectors


def embedding_map(
    store: Store, model: str, split: str, *, method: str = "umap", on_progress: Progress = no_progress
) -> Row:
    """Project the vectors of a split's images and captions to a plane (see `clipstore.projection`).

    Returns {"method": "umap" or "tsne", "model", "split", "points": [{"kind": "image" or "caption", "id": catalog id,
    "x", "y"}, ...]}, images first, both in the order of the split. The result is not stored.

    Raises:
        NotFoundError: the model, the split or the method does not exist.
        VectorError: the model was not embedded or has changed since, or a vector is non-finite.
        MissingExtraError: the packages of the extra `map` are not installed.
    """
    from clipstore.projection import project

    image_ids, images = read_vectors(store, model, split, "images", ids="catalog")
    caption_ids, captions = read_vectors(store, model, split, "captions", ids="catalog")
    if not (np.isfinite(images).all() and np.isfinite(captions).all()):
        message = f"{model} has a non-finite vector on {split}: '{eval_command(model, split)}' names the item"
        raise VectorError(message)
    task = f"{model}: map of {split}"
    on_progress(task, 0, 1)
    coordinates = project(images, captions, method=method)
    on_progress(task, 1, 1)
    kinds = ["image"] * len(image_ids) + ["caption"] * len(caption_ids)
    points = [
        {"kind": kind, "id": number, "x": x, "y": y}
        for kind, number, (x, y) in zip(
            kinds, np.concatenate([image_ids, caption_ids]).tolist(), coordinates.tolist(), strict=True
        )
    ]
    return {"method": method, "model": model, "split": split, "points": points}
