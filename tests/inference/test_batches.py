"""Batches are split when the device runs out of memory, and encoded plan groups are released."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.loading import load_model
from clipstore.errors import ModelError
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.encode import encode
from clipstore.inference.settings import EncodeSettings
from clipstore.records import Model, PlanGroup, ShardPlan
from clipstore.shards import LocalStorage

Outputs = tuple[NDArray[np.float32], NDArray[np.float32] | None]


def test_encoded_groups_are_released(tmp_path: Path) -> None:
    model = Model(name="demo", family="clip", base="bundled:demo")
    tower, encoder = fingerprint_towers(model, "fp32")[1], Encoder(load_model(model))
    settings = EncodeSettings(storage=LocalStorage(tmp_path), model=model, encoder=encoder, batch_tokens=512)
    groups: list[ref[PlanGroup]] = []
    most = 0

    def upcoming() -> Iterator[PlanGroup]:
        nonlocal most
        for number in range(20):
            key = f"{number:064x}"
            plan = ShardPlan(tower=tower, source="texts", contents=[key], sources=["a red square"], rows=[])
            group = PlanGroup(plans=(plan,))
            groups.append(ref(group))
            most = max(most, sum(reference() is not None for reference in groups))
            yield group

    assert len(list(encode(upcoming(), {tower.fingerprint: settings}))) == 20
    assert most < 10


def doubles(most: int) -> Callable[[list[int]], Outputs]:
    """A function that doubles numbers, on a device without memory for more than `most` at once."""

    def compute(items: list[int]) -> Outputs:
        if len(items) > most:
            message = "CUDA out of memory."
            raise torch.OutOfMemoryError(message)
        values = np.array(items, dtype=np.float32)[:, None]
        return 2 * values, values

    return compute


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40), st.integers(1, 40))
def test_batches_are_halved_until_they_fit(items: list[int], most: int) -> None:
    splitter = BatchSplitter()
    vectors, features = splitter.run(doubles(most), items)
    assert vectors[:, 0].tolist() == [2 * item for item in items]
    assert features is not None
    assert features[:, 0].tolist() == items
    assert splitter.count == 1 if len(items) <= most else -(-len(items) // splitter.count) <= most


def test_no_memory_for_a_single_item_is_an_error() -> None:
    with pytest.raises(ModelError, match="out of device memory for a single item"):
        BatchSplitter().run(doubles(0), [1, 2, 3])


def test_other_errors_do_not_split_batches() -> None:
    def fails(items: list[int]) -> Outputs:
        message = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="shapes"):
        BatchSplitter().run(fails, [1])
