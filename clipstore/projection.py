"""A map of embeddings: images and captions as points in a plane. Knows no files, no models and no catalog.

CLIP's image vectors and caption vectors lie in two narrow cones apart from one another (Liang et al., 2022, "Mind the
gap"), so that a map of both as they are shows two islands, and says nothing of which caption is near which image. Two
things are done about it, both from the vectors alone: nobody tells the map which caption belongs to which image, so
that where an image and its captions come near, the model brought them there.

1. The mean of its kind is taken off each vector. With v an image's and t a caption's vector, and m and n the means of
   their kinds, (v - m) · (t - n) = v · t - v · n - m · t + m · n: what goes away depends on the image alone or on the
   caption alone. What fits what stays.
2. Scores within a kind are still greater than those across, so the nearest points of a caption would be captions. Half
   of a point's neighbours are therefore taken from its own kind, half from the other, the latter being what retrieval
   brings; distances across are brought to the median of those within.

A map shows neighbourhoods. How far islands lie apart, and how wide they are, means little in UMAP and t-SNE alike.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import MissingExtraError, NotFoundError

Floats = NDArray[np.float64]
Points = NDArray[np.float32]

_WIDTH = 50  # principal components that neighbours are sought in
_NEIGHBOURS = 15  # of a point in UMAP, itself among them
_PERPLEXITY = 30.0  # of t-SNE, which takes three times as many neighbours
_FEWEST = 5  # points that either method takes; fewer stand where their principal components say

# The last bits of sums would grow to another map. Everything runs in one thread, so that they do not differ with the
# number of threads. They may with where arrays lie in memory: coordinates and distances are rounded to so many digits,
# and points that are equal are taken apart by more, so that no neighbour is chosen by a tie.
_DIGITS = 6
_APART = 1e-5


def lay_out(images: NDArray[Any], captions: NDArray[Any], *, method: str = "umap", seed: int = 0) -> Points:
    """The places (N + M, 2) float32 of images (N, D) and captions (M, D), float vectors of one model; either may be 0.

    `method` is "umap" (McInnes et al., 2018) or "tsne" (van der Maaten and Hinton, 2008), both on exact neighbours and
    begun from the first two principal components. Of 30,000 points UMAP takes some 25 seconds, t-SNE minutes. The same
    vectors and seed give the same places on one machine with the same packages, whatever the number of threads; other
    versions or processors may give a map that is turned or arranged otherwise.

    Raises:
        MissingExtraError: the packages of the extra `map` are not installed.
        NotFoundError: there is no such method.
    """
    if method not in _METHODS:
        raise NotFoundError.of("method of a map", method, _METHODS)
    with _one_thread():
        coordinates = _components(np.concatenate([_centred(images), _centred(captions)]), seed)
        if len(coordinates) < _FEWEST:
            return coordinates[:, :2].astype(np.float32)
        return _METHODS[method](coordinates, len(images), seed)


def _one_thread() -> AbstractContextManager[Any]:
    """One thread for BLAS and OpenMP: several add in another order, and stall where a core is busy elsewhere."""
    try:
        import sklearn.neighbors  # noqa: F401  (its libraries must be loaded to be limited)
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise _missing(error) from error
    return cast("AbstractContextManager[Any]", threadpool_limits(limits=1))


def _centred(vectors: NDArray[Any]) -> Floats:
    """Vectors less their mean, of unit length; what is left of a vector that is the mean is zero."""
    wide = vectors.astype(np.float64)
    if not len(wide):
        return wide
    wide -= wide.mean(axis=0)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(np.divide(wide, length, out=np.zeros_like(wide), where=length > 1e-6))


def _components(vectors: Floats, seed: int) -> Floats:
    """The first principal components (N, 2 to 50), with a noise far below them."""
    from sklearn.decomposition import PCA

    width = min(_WIDTH, *vectors.shape)
    found = np.random.default_rng(seed).normal(scale=_APART, size=(len(vectors), max(2, width)))
    if len(vectors) > 1:
        solver = "covariance_eigh" if len(vectors) > vectors.shape[1] else "full"
        with np.errstate(invalid="ignore"):  # the shares of a variance that is 0
            found[:, :width] += np.round(PCA(width, svd_solver=solver).fit_transform(vectors), _DIGITS)
    return found


def _umap(coordinates: Floats, images: int, seed: int) -> Points:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tensorflow not installed", category=ImportWarning)
        try:
            from umap import UMAP
        except ImportError as error:
            raise _missing(error) from error
    size = min(_NEIGHBOURS, len(coordinates) - 1)
    places, distances = _neighbours(coordinates, images, size)
    # One job: with a seed UMAP takes one anyhow. Neighbours are given for two reasons: half are of the other kind, and
    # exact ones take 2 s for 30,000 points, where compiling the search for approximate ones takes 30 s.
    found = UMAP(
        n_neighbors=size,
        init=coordinates[:, :2].astype(np.float32),
        random_state=seed,
        n_jobs=1,
        precomputed_knn=(places, distances),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]", category=UserWarning)
        return np.asarray(found.fit_transform(coordinates.astype(np.float32)), dtype=np.float32)


def _tsne(coordinates: Floats, images: int, seed: int) -> Points:
    from scipy.sparse import csr_array
    from sklearn.manifold import TSNE

    count = len(coordinates)
    perplexity = min(_PERPLEXITY, (count - 1) / 3)
    places, distances = _neighbours(coordinates, images, min(count, int(3 * perplexity + 1) + 1))
    ends = np.arange(0, places.size + 1, places.shape[1])
    graph = csr_array((distances.ravel(), places.ravel(), ends), shape=(count, count))
    start = (1e-4 * coordinates[:, :2] / coordinates[:, 0].std()).astype(np.float32)  # small, as t-SNE wants it
    found = TSNE(perplexity=perplexity, metric="precomputed", init=start, random_state=seed)
    return np.asarray(found.fit_transform(graph), dtype=np.float32)


def _neighbours(coordinates: Floats, images: int, size: int) -> tuple[NDArray[np.int32], Points]:
    """The places (N, size) of each point's neighbours, first itself, and their distances, ascending.

    Half of them, or as many as there are, are of the point's own kind; points before `images` are images.
    """
    kinds = np.arange(images), np.arange(images, len(coordinates))
    found = []
    for own, other in (kinds, kinds[::-1]):
        if not len(own):
            continue
        across = min(size // 2, len(other)) if len(own) > size - size // 2 else size - len(own)
        places, distances = _nearest(coordinates, own, own, size - across)
        if across:
            there, away = _nearest(coordinates, own, other, across)
            within, beyond = np.median(distances[:, 1:]) if size - across > 1 else 0, np.median(away)
            scale = within / beyond if within and beyond else 1
            places = np.concatenate([places, there], axis=1)
            distances = np.concatenate([distances, scale * away], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")
        found.append((np.take_along_axis(places, order, 1), np.take_along_axis(distances, order, 1)))
    places, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    return places.astype(np.int32), np.round(distances, _DIGITS).astype(np.float32)


def _nearest(coordinates: Floats, of: NDArray[np.int64], among: NDArray[np.int64], size: int) -> tuple[Any, Any]:
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=size, algorithm="brute").fit(coordinates[among])
    distances, places = search.kneighbors(coordinates[of])
    return among[places], distances


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"a map of embeddings needs {str(error.name).partition('.')[0]}: run pip install 'clipstore[map]'"
    )


_METHODS = {"umap": _umap, "tsne": _tsne}
