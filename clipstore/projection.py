"""A map of embeddings: images and captions as points in a plane. Uses no files, no models and no catalog.

CLIP's image vectors and caption vectors lie in two separate narrow cones, the modality gap (Liang et al., 2022, "Mind
the gap"), so that a map of the vectors as they are shows two clusters and does not show which captions are near which
images. Two steps remove the gap. Both use only the vectors: the pairs of images and captions are not used, so that an
image and its captions are near one another only if the model brings them together.

1. The mean of its kind is subtracted from each vector. With v an image's and t a caption's vector, and m and n the
   means of their kinds, (v - m) · (t - n) = v · t - v · n - m · t + m · n: the terms that are subtracted depend only on
   the image or only on the caption, not on how well the two match.
2. Scores within a kind are still greater than those across kinds, so that the nearest points of a caption would all be
   captions. Therefore half of a point's neighbours are taken from its own kind and half from the other, the latter
   being its retrieval results; the median distance across kinds is scaled to that within a kind.

A map shows neighbourhoods. The distances between clusters and their sizes mean little, in UMAP and in t-SNE.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import MissingExtraError, NotFoundError

Coordinates = NDArray[np.float64]
Points = NDArray[np.float32]

_COMPONENTS = 50  # principal components in which neighbours are searched
_NEIGHBOURS = 15  # of a point in UMAP, including itself
_PERPLEXITY = 30.0  # of t-SNE, which uses three times as many neighbours
_MIN_POINTS = 5  # for either method; fewer points are placed by their principal components

# Differences in the last bits of a sum would grow into another map. Everything runs in one thread, so that sums do not
# depend on the number of threads. They can still depend on the memory layout of arrays. Therefore coordinates and
# distances are rounded to _DIGITS, and equal points are separated by noise of _NOISE, more than the rounding, so that
# no neighbour is chosen by a tie.
_DIGITS = 6
_NOISE = 1e-5


def project(images: NDArray[Any], captions: NDArray[Any], *, method: str = "umap", seed: int = 0) -> Points:
    """Project images (N, D) and captions (M, D), vectors of one model, to the plane: (N + M, 2) float32.

    `method` is "umap" (McInnes et al., 2018) or "tsne" (van der Maaten and Hinton, 2008), both with exact neighbours
    and initialised with the first two principal components. N or M may be 0. For 30,000 points UMAP takes about 25
    seconds, t-SNE minutes. The result is deterministic for the same vectors and seed on one machine with the same
    packages, for any number of threads; other versions or processors may give another map.

    Raises:
        MissingExtraError: the packages of the extra `map` are not installed.
        NotFoundError: there is no such method.
    """
    if method not in _METHODS:
        raise NotFoundError.of("method of a map", method, _METHODS)
    with _one_thread():
        coordinates = _components(np.concatenate([_centred(images), _centred(captions)]), seed)
        if len(coordinates) < _MIN_POINTS:
            return coordinates[:, :2].astype(np.float32)
        return _METHODS[method](coordinates, len(images), seed)


def _one_thread() -> AbstractContextManager[Any]:
    """Limit BLAS and OpenMP to one thread: several threads add in another order, and stall on a busy machine."""
    try:
        import sklearn.neighbors  # noqa: F401  (only loaded libraries are limited)
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise _missing(error) from error
    return cast("AbstractContextManager[Any]", threadpool_limits(limits=1))


def _centred(vectors: NDArray[Any]) -> Coordinates:
    """The vectors minus their mean, scaled to unit length; zero for a vector that equals the mean."""
    wide = vectors.astype(np.float64)
    if not len(wide):
        return wide
    wide -= wide.mean(axis=0)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 1e-6))


def _components(vectors: Coordinates, seed: int) -> Coordinates:
    """The first principal components (N, 2 to 50), plus small noise."""
    from sklearn.decomposition import PCA

    width = min(_COMPONENTS, *vectors.shape)
    components = np.random.default_rng(seed).normal(scale=_NOISE, size=(len(vectors), max(2, width)))
    if len(vectors) > 1:
        solver = "covariance_eigh" if len(vectors) > vectors.shape[1] else "full"
        with np.errstate(invalid="ignore"):  # the explained shares of a variance of 0
            components[:, :width] += np.round(PCA(width, svd_solver=solver).fit_transform(vectors), _DIGITS)
    return components


def _umap(coordinates: Coordinates, images: int, seed: int) -> Points:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        try:
            from umap import UMAP
        except ImportError as error:
            raise _missing(error) from error
    size = min(_NEIGHBOURS, len(coordinates) - 1)
    neighbours, distances = _neighbours(coordinates, images, size)
    # With a seed UMAP uses one job in any case. The neighbours are given for two reasons: half of them are of the other
    # kind, and exact ones take 2 s for 30,000 points, while compiling the search for approximate ones takes 30 s.
    umap = UMAP(
        n_neighbors=size,
        init=coordinates[:, :2].astype(np.float32),
        random_state=seed,
        n_jobs=1,
        precomputed_knn=(neighbours, distances),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]", category=UserWarning)
        return np.asarray(umap.fit_transform(coordinates.astype(np.float32)), dtype=np.float32)


def _tsne(coordinates: Coordinates, images: int, seed: int) -> Points:
    from scipy.sparse import csr_array
    from sklearn.manifold import TSNE

    count = len(coordinates)
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    neighbours, distances = _neighbours(coordinates, images, min(count, int(3 * perplexity + 1) + 1))
    row_ends = np.arange(0, neighbours.size + 1, neighbours.shape[1])
    graph = csr_array((distances.ravel(), neighbours.ravel(), row_ends), shape=(count, count))
    start = (1e-4 * coordinates[:, :2] / coordinates[:, 0].std()).astype(np.float32)  # t-SNE needs a small one
    tsne = TSNE(perplexity=perplexity, metric="precomputed", init=start, random_state=seed)
    return np.asarray(tsne.fit_transform(graph), dtype=np.float32)


def _neighbours(coordinates: Coordinates, images: int, size: int) -> tuple[NDArray[np.int32], Points]:
    """The indices (N, size) of each point's neighbours, first itself, and their distances, ascending.

    Half of them, if there are as many, are of the point's own kind. The first `images` points are images.
    """
    kinds = np.arange(images), np.arange(images, len(coordinates))
    parts = []
    for own, other in (kinds, kinds[::-1]):
        if not len(own):
            continue
        across = min(size // 2, len(other)) if len(own) > size - size // 2 else size - len(own)
        indices, distances = _nearest(coordinates, own, own, size - across)
        if across:
            other_indices, other_distances = _nearest(coordinates, own, other, across)
            within = np.median(distances[:, 1:]) if size - across > 1 else 0
            beyond = np.median(other_distances)
            scale = within / beyond if within and beyond else 1
            indices = np.concatenate([indices, other_indices], axis=1)
            distances = np.concatenate([distances, scale * other_distances], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")
        parts.append((np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)))
    indices, distances = (np.concatenate(part) for part in zip(*parts, strict=True))
    return indices.astype(np.int32), np.round(distances, _DIGITS).astype(np.float32)


def _nearest(
    coordinates: Coordinates, points: NDArray[np.int64], candidates: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], Coordinates]:
    """The `size` nearest candidates of each point: their indices and distances, ascending."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=size, algorithm="brute").fit(coordinates[candidates])
    distances, rows = search.kneighbors(coordinates[points])
    return candidates[rows], distances


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"a map of embeddings needs {str(error.name).partition('.')[0]}: run pip install 'clipstore[map]'"
    )


_METHODS = {"umap": _umap, "tsne": _tsne}
