"""`rank_pairs`: the ranks of every positive pair in both directions and each row's best hits, in one pass.

A score is the float64 sum of the products of the stored values, and every score that decides a rank is computed by one
routine (`kernels.score_cells`). The pass itself runs in low precision, tile by tile: `bounds` proves for nearly every
cell on which side of each target its score lies, `screening.screen` counts these, and the others are scored. So the
result does not depend on block sizes, threads, precision or device, nor on the parts that the matrix is divided into
(`parts`, `merge`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking.blocks import Side, VectorRows
from clipstore.ranking.merge import DirectionRanks, Merge, Ranks
from clipstore.ranking.parts import Part, RankSettings, rank_part
from clipstore.ranking.targets import Targets, score_pairs

__all__ = ["DirectionRanks", "Ranks", "rank_pairs", "score_targets"]


def rank_pairs(  # noqa: PLR0913
    image_vectors: VectorRows,
    text_vectors: VectorRows,
    pairs: NDArray[np.integer[Any]],
    *,
    top_k: int = 10,
    memory: int | None = None,
    device: str = "cpu",
    screen: str = "auto",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Ranks:
    """Rank each positive pair among all texts and among all images, exactly, and find each row's best `top_k`.

    Args:
        image_vectors: (N, D), float16 or float32; ranked by the dot product of the values given. A zero vector
            scores 0.
        text_vectors: (M, D), likewise.
        pairs: (P, 2), integers: image row, text row. A row can be in any number of pairs.
        top_k: the number of hits of each row; 0: none.
        memory: budget in bytes, including the result; None: 2 GB.
        device: where the products run; the result is the same everywhere.
        screen: the precision of the products, a key of `bounds.PRECISIONS`; "auto": the fastest of the device.
        on_progress: called with the number of text rows ranked, for all blocks of images, and their total.

    Raises:
        VectorError: shapes do not match, a value is not finite, a pair has no such row, or `memory` is too small.
    """
    settings = RankSettings(top_k=top_k, memory=memory, device=device, screen=screen)
    targets = score_targets(image_vectors, text_vectors, pairs, settings)
    images, texts = Side(image_vectors, "image"), Side(text_vectors, "text")
    merge = Merge(targets, images=len(images), texts=len(texts), top_k=top_k)
    merge.add(rank_part(images, texts, targets, merge.whole, settings, on_progress))
    return merge.ranks()


def score_targets(
    image_vectors: VectorRows, text_vectors: VectorRows, pairs: NDArray[np.integer[Any]], settings: RankSettings
) -> Targets:
    """Check the arguments of `rank_pairs`, and score the pairs.

    Raises:
        VectorError: as `rank_pairs`.
    """
    _check(image_vectors, text_vectors, pairs, settings.top_k)
    images, texts = Side(image_vectors, "image"), Side(text_vectors, "text")
    whole = Part(images=range(len(images)), texts=range(len(texts)))
    rows: NDArray[np.int64] = np.asarray(pairs, dtype=np.int64)
    return score_pairs(images, texts, rows, settings.layout(whole, rows, images.width).texts)


def _check(images: VectorRows, texts: VectorRows, pairs: NDArray[Any], top_k: int) -> None:
    if len(images.shape) != 2 or len(texts.shape) != 2 or images.shape[1] != texts.shape[1]:
        message = f"vectors of shapes {images.shape} and {texts.shape}: both must be rows of one width"
        raise VectorError(message)
    if not {str(images.dtype), str(texts.dtype)} <= {"float16", "float32"}:
        message = f"vectors of {images.dtype} and {texts.dtype}: use float16 or float32"
        raise VectorError(message)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        message = f"pairs must be integers of shape (P, 2), not {pairs.dtype} of shape {pairs.shape}"
        raise VectorError(message)
    sizes = (images.shape[0], texts.shape[0])
    outside = ((pairs < 0) | (pairs >= np.array(sizes))).any(axis=1)
    if outside.any():
        message = f"pair {pairs[outside][0].tolist()} has no such row: there are {sizes[0]} images and {sizes[1]} texts"
        raise VectorError(message)
    if top_k < 0:
        message = f"top_k must not be negative, not {top_k}"
        raise VectorError(message)
