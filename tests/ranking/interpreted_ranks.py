"""Whole rankings on a simulated device; `test_fused` runs them in a process with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from rank_cases import (
    cone_vectors,
    draw_pairs,
    dyadic_vectors,
    generic,
    generic_vectors,
    least_memory,
    same,
    sample_pairs,
)
from simulated_device import DEVICE, DeviceTensor, SimulatedDevice, ThisThread, start_on_values

from clipstore.ranking import blocks, fused, fused_check, parts, rank_pairs
from clipstore.ranking.fused import Cells, Counts, DeviceQueries


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "start", start_on_values(fused.start))
    monkeypatch.setitem(fused.SETTLE_OPTIONS, "BLOCK_CELLS", 1024)  # the interpreter runs one block after another
    monkeypatch.setattr(parts, "ThreadPoolExecutor", ThisThread)
    monkeypatch.setattr(blocks, "ThreadPoolExecutor", ThisThread)
    with SimulatedDevice():
        yield


@examples(100, short=15)
@given(
    data=st.data(),
    sides=st.one_of(dyadic_vectors(), generic_vectors(), cone_vectors()),
    top_k=st.sampled_from([0, 1, 3, 12]),
    screen=st.sampled_from(["auto", "fp16", "fp32", "fp64"]),
)
def check_ranks(data: st.DataObject, sides: Any, top_k: int, screen: str) -> None:
    pairs = draw_pairs(data, *sides)
    ranks = rank_pairs(*sides, pairs, top_k=top_k, device=DEVICE, screen=screen)
    assert same(ranks, rank_pairs(*sides, pairs, top_k=top_k))
    assert ranks.screen == ("fp16" if screen == "auto" else screen)


def test_ranks_equal_those_of_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    check_ranks()
    assert not caplog.records, "the kernels screened"


def test_ranks_over_many_tiles_equal_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hits are missing in the first tiles; in some, more cells tie than the list of a tile has room for."""
    monkeypatch.setattr(fused, "_SHARE", 5)
    whole, screened = fused.screen_tile, []
    monkeypatch.setattr(fused, "screen_tile", lambda *tile: screened.append(len(tile[0].prepared)) or whole(*tile))
    images, texts = generic(80, 24, 1), generic(100, 24, 2)
    texts[::3] = texts[0]
    pairs = sample_pairs(80, 100)
    memory = least_memory(images, texts, pairs, device=DEVICE) + 2**16
    DeviceTensor.peak_bytes = 0
    assert same(rank_pairs(images, texts, pairs, device=DEVICE, memory=memory), rank_pairs(images, texts, pairs))
    assert 0 < DeviceTensor.peak_bytes <= memory - 2**24, "the constant part of the plan is not used here"
    assert screened.count(12) == 2 * 5, "two tiles of 64 columns were divided"


def test_a_misplaced_tensor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, pairs = generic(20, 8, 1), generic(30, 8, 2), sample_pairs(20, 30)
    rank_pairs(images, texts, pairs, device=DEVICE)
    monkeypatch.setattr(fused, "copy_to", lambda _device, values: torch.from_numpy(values))
    with pytest.raises(RuntimeError, match="tensors of one kernel on"):
        rank_pairs(images, texts, pairs, device=DEVICE)


def imprecise_product(rows: DeviceQueries, columns: DeviceQueries, capacity: int) -> tuple[Counts, Cells]:
    """A product of operands with 12 bits, as in TF32."""
    prepared = (rows.prepared.float() * (1 + 2.0**-12)).to(rows.prepared.dtype)
    return fused.screen_tile(replace(rows, prepared=prepared), columns, capacity)


def wrong_count(cells: Cells, *others: Any) -> Cells:
    *_, counts = others
    counts.columns[1, 5] += 1
    return fused.settle_cells(cells, *others)


def lost_cell(cells: Cells, *others: Any) -> Cells:
    remaining = fused.settle_cells(cells, *others)
    remaining.count.sub_(1)
    return remaining


@pytest.mark.parametrize(
    ("name", "fault"), [("screen_tile", imprecise_product), ("settle_cells", wrong_count), ("settle_cells", lost_cell)]
)
def test_kernels_that_are_wrong_are_not_used(
    name: str, fault: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_check, name, fault)
    assert not fused_check.fused_works.__wrapped__(torch.float32, DEVICE)
    (record,) = caplog.records
    assert record.getMessage().endswith("its kernel failed the accuracy self-test")
