"""The map of a split's embeddings: every image and caption as a point in a plane."""

from __future__ import annotations

import numpy as np

from clipstore.errors import VectorError
from clipstore.progress import Progress, no_progress
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.store.vectors import read_vectors


def embedding_map(
    store: Store, model: str, split: str, *, method: str = "umap", seed: int = 0, on_progress: Progress = no_progress
) -> Row:
    """Lay out the images and captions of a split that have a vector of the model, as `clipstore.projection` explains.

    Returns {"method": "umap" or "tsne", "model", "split", "points": [{"kind": "image" or "caption", "id": catalog id,
    "x", "y"}, ...]}, images first, each kind in the split's order. Nothing of it is kept in the store.

    Raises:
        NotFoundError: no such model, split or method.
        VectorError: the model was never embedded or has changed since, or a vector is not finite.
        MissingExtraError: the packages of the extra `map` are not installed.
    """
    from clipstore.projection import lay_out

    read = (read_vectors(store, model, split, what, ids="catalog") for what in ("images", "captions"))
    ids, vectors = zip(*read, strict=True)
    if not all(np.isfinite(one).all() for one in vectors):
        message = (
            f"{model} has a vector on {split} that is not finite: 'clipstore eval --model {model} --split {split}'"
        )
        raise VectorError(f"{message} names it")
    what = f"{model}: map of {split}"
    on_progress(what, 0, 1)
    places = lay_out(*vectors, method=method, seed=seed)
    on_progress(what, 1, 1)
    kinds = ["image"] * len(ids[0]) + ["caption"] * len(ids[1])
    points = [
        {"kind": kind, "id": number, "x": x, "y": y}
        for kind, number, (x, y) in zip(kinds, np.concatenate(ids).tolist(), places.tolist(), strict=True)
    ]
    return {"method": method, "model": model, "split": split, "points": points}
