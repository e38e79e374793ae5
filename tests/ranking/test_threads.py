"""Results with several threads equal those with one, for any number of threads of the other tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clipstore
from clipstore.bench.vectors import SyntheticVectors
from clipstore.ranking import rank_pairs

Run = Callable[..., Any]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of torch's threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_vectors_do_not_depend_on_threads(
    threads: Callable[[int], None], cli: Run, cli_json: Run, scenes: Path, tmp_path: Path
) -> None:
    stores = {count: tmp_path / f"store{count}" for count in (1, 3)}
    for count, place in stores.items():
        cli("ingest", "coco", scenes, "--name", "s", "--store", place)
        threads(count)
        rows = cli_json("embed", "--model", "demo", "--precision", "fp32", "--store", place)["embedded"]
        assert [row["done"] > 0 for row in rows] == [True, True]
    for kind in ("images", "captions"):
        single, several = (clipstore.open(place).vectors("demo", "s/val", kind)[1] for place in stores.values())
        np.testing.assert_allclose(several, single, atol=1e-6)


@pytest.mark.parametrize("screen", ["fp32", "bf16"])
def test_ranks_do_not_depend_on_threads(threads: Callable[[int], None], screen: str) -> None:
    vectors = SyntheticVectors(images=1500, captions=3000, dim=32)
    images, texts = (np.concatenate(list(blocks)) for blocks in (vectors.image_blocks(), vectors.caption_blocks()))
    pairs = np.stack([np.arange(3000) // 2, np.arange(3000)], axis=1)
    results = []
    for count in (1, 3):
        threads(count)
        results.append(rank_pairs(images, texts, pairs, screen=screen))
    for side in ("image_to_text", "text_to_image"):
        single, several = (vars(getattr(ranks, side)) for ranks in results)
        for name, values in single.items():
            assert np.array_equal(values, several[name]), name
