"""SQL, vectors and imported arrays in Python. The store of these tests has no model files, only vectors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import write_dataset

import clipstore
from clipstore.api import EmbeddingStore
from clipstore.errors import CatalogError, ModelError, NotFoundError, OptionError, VectorError

CAPTIONS = {"a": {"a1": (1.0, 0.0), "a2": (0.0, 2.0)}, "b": {"b1": (0.0, 1.0)}, "c": {"c1": (1.0, 1.0)}}
ARRAYS = {
    "images": np.array([[3.0, 4.0], [1.0, 0.0]]),
    "image_ids": np.array(["a", "c"]),
    "captions": np.array([row for rows in CAPTIONS.values() for row in rows.values()], dtype=np.float32),
    "caption_ids": np.array([name for rows in CAPTIONS.values() for name in rows]),
}


@pytest.fixture
def embedding_store(store: Path, tmp_path: Path) -> EmbeddingStore:
    """A store with a dataset of three images, and the model m with vectors of two of them."""
    embedding_store = clipstore.open(store)
    embedding_store.ingest_csv(write_dataset(tmp_path, "d", CAPTIONS))
    embedding_store.import_vectors("m", "d/all", **ARRAYS)
    return embedding_store


def test_sql_returns_an_arrow_table_and_closes_the_catalog(embedding_store: EmbeddingStore, store: Path) -> None:
    table = embedding_store.sql("SELECT source_id FROM images ORDER BY image_id")
    assert isinstance(table, pa.Table)
    assert table.to_pydict() == {"source_id": ["a", "b", "c"]}
    with pytest.raises(CatalogError):
        embedding_store.sql("DROP TABLE images")
    shutil.move(store, store.with_name("moved"))
    with pytest.raises(NotFoundError):
        embedding_store.sql("SELECT 1")
    assert clipstore.open(str(store.with_name("moved"))).sql("SELECT 1 AS one").to_pydict() == {"one": [1]}


def test_vectors_are_those_of_the_items_that_have_one(embedding_store: EmbeddingStore) -> None:
    ids, vectors = embedding_store.vectors("m", "d/all", "images")
    assert ids.tolist() == ["a", "c"]
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [1.0, 0.0]])
    ids, vectors = embedding_store.vectors("m", "d/all", "images", ids="catalog")
    assert (ids.dtype, vectors.dtype, vectors.shape) == (np.int64, np.float32, (2, 2))
    named = embedding_store.sql("SELECT image_id FROM images WHERE source_id IN ('a', 'c') ORDER BY image_id")
    assert ids.tolist() == named["image_id"].to_pylist()


def test_vectors_name_what_is_unknown(embedding_store: EmbeddingStore) -> None:
    with pytest.raises(OptionError, match=r"'image_id' .*catalog, source"):
        embedding_store.vectors("m", "d/all", "images", ids="image_id")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="pictures"):
        embedding_store.vectors("m", "d/all", "pictures")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="'d/all'"):
        embedding_store.vectors("m", "d/al", "images")


def test_vectors_can_be_imported_again_as_they_were_read(embedding_store: EmbeddingStore) -> None:
    arrays: dict[str, Any] = {}
    for kind, ids in (("images", "image_ids"), ("captions", "caption_ids")):
        arrays[ids], arrays[kind] = embedding_store.vectors("m", "d/all", kind)
    counts = embedding_store.import_vectors("n", "d/all", **arrays)["imported"]
    assert [(row["tower"], row["rows"], row["not_unit"]) for row in counts] == [("image", 2, 0), ("text", 4, 0)]
    for kind in ("images", "captions"):
        copied, original = (embedding_store.vectors(model, "d/all", kind) for model in ("n", "m"))
        assert [array.tolist() for array in copied] == [array.tolist() for array in original]


REFUSED_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "integers": ({"images": np.eye(2, dtype=int)}, "array of images holds int64 of shape"),
    "one dimension": ({"captions": np.ones(4)}, "array of captions holds float64 of shape"),
    "widths": ({"images": np.ones((2, 3))}, "array of images has width 3 and the array of captions has 2"),
    "NaN": ({"images": np.array([[1.0, 0.0], [np.nan, 0.0]])}, "array of images: .*vector 1.*c.* NaN"),
    "an id twice": ({"image_ids": np.array(["a", "a"])}, "array of images' ids .*a"),
    "too few ids": ({"caption_ids": np.array(["a1"])}, "array of captions' ids .*4 "),
    "unknown id": ({"image_ids": np.array(["a", "z"])}, "d/all .*image.* z"),
    "objects": ({"image_ids": np.array(["a", None])}, "array of images' ids holds object"),
}


@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_bad_arrays_are_refused_by_name(embedding_store: EmbeddingStore, case: str) -> None:
    replaced, words = REFUSED_ARRAYS[case]
    with pytest.raises(VectorError, match=words):
        embedding_store.import_vectors("n", "d/all", **(ARRAYS | replaced))
    with pytest.raises(ModelError, match="'demo'"):
        embedding_store.import_vectors("demo", "d/all", **ARRAYS)
    assert embedding_store.sql("SELECT name FROM models").to_pydict() == {"name": ["m"]}


def test_an_array_is_not_changed(embedding_store: EmbeddingStore) -> None:
    before = {name: array.copy() for name, array in ARRAYS.items()}
    embedding_store.import_vectors("m", "d/all", **ARRAYS)
    assert all((ARRAYS[name] == array).all() for name, array in before.items())
