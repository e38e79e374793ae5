"""The map of embeddings: similar items are near one another, at any size, and a seed determines the result.

UMAP takes long to import and to compile. In a short run, this file is the only one that uses it, in one process.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import CAPTIONS, IMAGES, write_dataset
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from clipstore.bench.vectors import SyntheticVectors
from clipstore.errors import NotFoundError, VectorError
from clipstore.pipeline.report.embedding_map import embedding_map
from clipstore.projection import _components, _neighbours, project
from clipstore.store.layout import Store

METHODS = ["umap", "tsne"]
TSNE_IN_SHORT = [pytest.param("umap", marks=pytest.mark.full), "tsne"]  # the first UMAP of a process takes 20 s


def nearest(points: NDArray[Any], *, only: NDArray[np.bool_] | None = None, count: int = 10) -> NDArray[np.int64]:
    """The indices (N, count) of the nearest other points, of those where `only` is true; by brute force."""
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    if only is not None:
        distances[:, ~only] = np.inf
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


def two_cones(seed: int, size: int = 40, dim: int = 32) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Images and captions in two distant cones, each with three subjects; and the subject of each item."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, dim))
    subject = np.arange(size) % 3
    cones = 20 * rng.normal(size=(2, dim))
    images, captions = (cone + 4 * centres[subject] + rng.normal(size=(size, dim)) for cone in cones)
    return images, captions, np.concatenate([subject, subject])


@pytest.mark.parametrize("method", TSNE_IN_SHORT)
def test_items_are_near_by_subject_and_not_by_kind(method: str) -> None:
    """Nine in ten neighbours have the same subject, and some of each point's ten nearest are of the other kind."""
    images, captions, subject = two_cones(3)
    neighbours = nearest(project(images, captions, method=method))
    assert (subject[neighbours] == subject[:, None]).mean() > 0.9
    is_image = np.arange(len(subject)) < len(images)
    other = (is_image[neighbours] != is_image[:, None]).mean(axis=1)
    assert other.mean() > 0.3
    raw = nearest(np.concatenate([images, captions]))
    assert (is_image[raw] != is_image[:, None]).mean() == 0  # before projection, all neighbours are of one kind


@pytest.mark.parametrize("method", TSNE_IN_SHORT)
def test_a_caption_is_near_its_image(method: str) -> None:
    """The nearest image of a caption is mostly its own, although the pairs are not given."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, 64))
    captions = np.repeat(images, 5, axis=0) + 0.5 * rng.normal(size=(300, 64)) + 10
    points = project(images, captions, method=method)
    nearest_image = nearest(points, only=np.arange(360) < 60, count=1)[60:, 0]
    assert (nearest_image == np.arange(300) // 5).mean() > 0.8


@pytest.mark.parametrize(("images", "captions"), [(30, 150), (150, 30), (3, 60), (60, 3), (0, 40), (40, 0), (7, 9)])
def test_neighbours_are_the_nearest_of_each_kind(images: int, captions: int) -> None:
    coordinates = np.random.default_rng(images).normal(size=(images + captions, 6))
    size = 15
    indices, distances = _neighbours(coordinates, images, size)
    assert indices.shape == distances.shape == (images + captions, size)
    assert (indices[:, 0] == np.arange(images + captions)).all()
    assert (np.diff(distances, axis=1) >= 0).all()
    kind = np.arange(images + captions) >= images
    for point in range(images + captions):
        order = np.argsort(np.linalg.norm(coordinates - coordinates[point], axis=1))
        own = [index for index in order if kind[index] == kind[point]]
        other = [index for index in order if kind[index] != kind[point]]
        count = sum(kind[indices[point]] == kind[point])
        assert set(indices[point].tolist()) == {*own[:count], *other[: size - count]}
        assert count == max(min(8, len(own)), size - len(other))


def test_equal_points_are_their_own_first_neighbours() -> None:
    indices, distances = _neighbours(_components(np.ones((50, 3)), 0), 20, 15)
    assert (indices[:, 0] == np.arange(50)).all()
    assert not distances[:, 0].any()
    assert all(len(set(row)) == 15 for row in indices.tolist())


@pytest.mark.parametrize("method", TSNE_IN_SHORT)
@pytest.mark.parametrize(
    ("images", "captions"), [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (2, 2), (1, 5), (0, 7), (4, 10), (3, 40)]
)
@pytest.mark.parametrize("spread", [1, 0])
def test_any_number_of_points(method: str, images: int, captions: int, spread: int) -> None:
    """Few points, a single kind, one dimension, and equal points (spread 0)."""
    rng = np.random.default_rng(images)
    for dim in (1, 16):
        sides = [(1 + spread * rng.normal(size=(size, dim))).astype(np.float16) for size in (images, captions)]
        points = project(sides[0], sides[1], method=method)
        assert points.shape == (images + captions, 2)
        assert points.dtype == np.float32
        assert np.isfinite(points).all()


PROGRAM = """
import hashlib, sys
import numpy as np
from clipstore.bench.vectors import SyntheticVectors
from clipstore.projection import project
vectors = SyntheticVectors(images=int(sys.argv[2]), captions=5 * int(sys.argv[2]), dim=int(sys.argv[3]))
sides = [np.concatenate(list(side)) for side in (vectors.image_blocks(), vectors.caption_blocks())]
print(hashlib.sha256(project(*sides, method=sys.argv[1], seed=1).tobytes()).hexdigest())
"""


def digest_of_process(*words: object, threads: int | None = None) -> str:
    environment = os.environ | (
        {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS")} if threads else {}
    )
    command = [sys.executable, "-W", "error", "-c", PROGRAM, *map(str, words)]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@pytest.mark.full
@pytest.mark.parametrize("method", TSNE_IN_SHORT)
def test_a_seed_gives_the_same_points_in_two_processes(method: str) -> None:
    """Also with another number of threads, and with equal captions. Another seed gives other points."""
    vectors = SyntheticVectors(images=80, captions=400, dim=64)
    sides = next(vectors.image_blocks()), next(vectors.caption_blocks())
    expected, other = (project(*sides, method=method, seed=seed).tobytes() for seed in (1, 2))
    threads = max((pool["num_threads"] for pool in threadpool_info()), default=1)
    assert digest_of_process(method, 80, 64, threads=2 if threads == 1 else 1) == hashlib.sha256(expected).hexdigest()
    assert expected != other


@pytest.mark.parametrize(("package", "methods"), [("umap", ["umap"]), ("sklearn", METHODS)])
def test_a_missing_package_names_the_extra(package: str, methods: list[str]) -> None:
    program = (
        f"import sys\nsys.modules[{package!r}] = None\nimport numpy as np\n"
        "from clipstore.errors import MissingExtraError\nfrom clipstore.projection import project\n"
        f"for method in {methods!r}:\n"
        "    try:\n        project(np.eye(8), np.eye(8), method=method)\n"
        "    except MissingExtraError as error:\n        print(error)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output == f"a map of embeddings needs {package}: run pip install 'clipstore[map]'\n" * len(methods)


def test_an_unknown_method() -> None:
    with pytest.raises(NotFoundError, match="did you mean 'umap'"):
        project(np.eye(8), np.eye(8), method="umapp")


# --- of a store


@pytest.fixture
def golden(cli: Callable[..., Result], import_vectors: Callable[..., Result], tmp_path: Path, store: Path) -> Store:
    """Three images and six captions with imported vectors; the model `few` has only two images and three captions."""
    cli("ingest", "csv", write_dataset(tmp_path, "golden", CAPTIONS))
    texts = {text: vector for captions in CAPTIONS.values() for text, vector in captions.items()}
    import_vectors("m", "golden/all", IMAGES, texts)
    import_vectors(
        "few", "golden/all", {"a": IMAGES["a"], "c": IMAGES["c"]}, {name: texts[name] for name in ("a1", "c1", "b1")}
    )
    return Store(store)


@pytest.mark.parametrize("method", TSNE_IN_SHORT)
def test_every_item_of_a_split_with_a_vector_is_a_point(golden: Store, sql: Callable[..., Any], method: str) -> None:
    result = embedding_map(golden, "m", "golden/all", method=method)
    assert {key: result[key] for key in ("method", "model", "split")} == {
        "method": method,
        "model": "m",
        "split": "golden/all",
    }
    images = sql("SELECT image_id FROM split_images ORDER BY position")
    captions = sql(
        "SELECT caption_id FROM captions JOIN split_images USING (image_id) "
        "ORDER BY split_images.position, captions.position"
    )
    assert [(point["kind"], point["id"]) for point in result["points"]] == [
        *(("image", row["image_id"]) for row in images),
        *(("caption", row["caption_id"]) for row in captions),
    ]
    assert all(np.isfinite([point["x"], point["y"]]).all() for point in result["points"])


def test_items_without_a_vector_are_left_out(golden: Store) -> None:
    kinds = [point["kind"] for point in embedding_map(golden, "few", "golden/all", method="tsne")["points"]]
    assert kinds == ["image"] * 2 + ["caption"] * 3


def test_unknown_names(golden: Store) -> None:
    with pytest.raises(NotFoundError, match="golden/all"):
        embedding_map(golden, "m", "golden/al")
    with pytest.raises(NotFoundError, match="unknown model"):
        embedding_map(golden, "mm", "golden/all")
    with pytest.raises(VectorError, match="clipstore embed"):
        embedding_map(golden, "demo", "golden/all")


@pytest.mark.full
def test_five_thousand_images_within_a_minute(tmp_path: Path) -> None:
    """5,000 images and 25,000 captions of width 512, including compilation, in a separate process."""
    start = time.perf_counter()
    digest_of_process("umap", 5000, 512)
    seconds = time.perf_counter() - start
    print(f"{seconds:.1f} s")
    assert seconds < 60
