"""Rankings on a device with memory of its own, simulated, with torch's operations: the path without Triton."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rank_cases import cone_vectors, draw_pairs, dyadic_vectors, generic, generic_vectors, same, sample_pairs
from simulated_device import DEVICE, DeviceTensor, SimulatedDevice, ThisThread

import clipstore.ranking
from clipstore.errors import VectorError
from clipstore.ranking import blocks, bounds, parts, prepared, rank_pairs
from clipstore.ranking.blocks import Layout
from clipstore.ranking.bounds import Centre
from clipstore.ranking.fused_check import fused_works

Array = NDArray[np.float32]


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(parts, "ThreadPoolExecutor", ThisThread)
    monkeypatch.setattr(blocks, "ThreadPoolExecutor", ThisThread)
    monkeypatch.delattr(clipstore.ranking, "fused_kernel", raising=False)
    monkeypatch.delitem(sys.modules, "clipstore.ranking.fused_kernel", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    fused_works.cache_clear()
    with SimulatedDevice():
        yield
    fused_works.cache_clear()


@examples(200)
@given(
    data=st.data(),
    sides=st.one_of(dyadic_vectors(), generic_vectors(), cone_vectors()),
    top_k=st.sampled_from([0, 1, 3, 12]),
    screen=st.sampled_from(["auto", "fp16", "bf16", "fp32", "fp64"]),
)
def check_ranks(data: st.DataObject, sides: Any, top_k: int, screen: str) -> None:
    pairs = draw_pairs(data, *sides)
    ranks = rank_pairs(*sides, pairs, top_k=top_k, device=DEVICE, screen=screen)
    assert same(ranks, rank_pairs(*sides, pairs, top_k=top_k))
    assert ranks.screen == ("fp16" if screen == "auto" else screen)


def test_ranks_equal_those_of_the_cpu() -> None:
    check_ranks()


SIDES = generic(150, 24, 1), generic(400, 24, 2)
PAIRS = sample_pairs(150, 400)


def test_without_triton_one_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert same(rank_pairs(*SIDES, PAIRS, device=DEVICE), rank_pairs(*SIDES, PAIRS))
    (record,) = caplog.records
    assert record.getMessage().startswith("clipstore: warning: ")
    assert "Triton is not installed" in record.getMessage()


def test_a_kernel_that_does_not_run_is_not_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton is there, but no device that it compiles for."""
    monkeypatch.undo()
    pytest.importorskip("triton")
    monkeypatch.setattr(parts, "ThreadPoolExecutor", ThisThread)
    monkeypatch.setattr(blocks, "ThreadPoolExecutor", ThisThread)
    assert same(rank_pairs(*SIDES, PAIRS, device=DEVICE), rank_pairs(*SIDES, PAIRS))
    (record,) = caplog.records
    assert "did not compile or run" in record.getMessage()
    assert "\n" not in record.getMessage()


def on_the_cpu(_device: str, values: Array) -> torch.Tensor:
    return torch.from_numpy(values)


def images_on_the_cpu(
    values: torch.Tensor, centre: Centre, precision: torch.dtype, prepare: Any = bounds.prepare
) -> bounds.Prepared:
    result = prepare(values, centre, precision)
    return replace(result, low=result.low.cpu()) if centre.left else result


MISPLACED = {
    "vectors that are not copied to the device": (prepared, "copy_to", on_the_cpu),
    "results that are not copied to the host": (torch.Tensor, "cpu", lambda tensor: tensor),
    "prepared rows on the CPU": (bounds, "prepare", images_on_the_cpu),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_a_misplaced_tensor_fails(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rank_pairs(*SIDES, PAIRS, device=DEVICE)
    monkeypatch.setattr(*MISPLACED[case])
    with pytest.raises(RuntimeError, match=r"on the CPU|not supported for tensor subclasses"):
        rank_pairs(*SIDES, PAIRS, device=DEVICE)


@pytest.mark.parametrize("factor", [1, 3])
def test_the_device_holds_no_more_than_the_memory(factor: int) -> None:
    images, texts, pairs = generic(300, 64, 1), generic(700, 64, 2), sample_pairs(300, 700)
    with pytest.raises(VectorError) as caught:
        rank_pairs(images, texts, pairs, memory=1, device=DEVICE)
    memory = factor * int(str(caught.value).split()[-1])
    DeviceTensor.peak_bytes = 0
    assert same(rank_pairs(images, texts, pairs, memory=memory, device=DEVICE), rank_pairs(images, texts, pairs))
    assert 0 < DeviceTensor.peak_bytes <= memory - 2**24, "the constant part of the plan is not used here"


def test_blocks_are_planned_within_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "unallocated_memory", lambda _: 30 * 2**20)
    DeviceTensor.peak_bytes = 0
    rank_pairs(*SIDES, PAIRS, device=DEVICE)
    assert DeviceTensor.peak_bytes <= 30 * 2**20
    monkeypatch.setattr(parts, "unallocated_memory", lambda _: 2**20)
    with pytest.raises(VectorError, match=rf"^{2**20} bytes .* at least .*free on {DEVICE}: .*--device cpu"):
        rank_pairs(*SIDES, PAIRS, device=DEVICE)


def test_a_full_device_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_device: str, _values: Array) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(prepared, "copy_to", full)
    with pytest.raises(VectorError, match=f"^{DEVICE} ran out of memory: use a smaller --memory"):
        rank_pairs(*SIDES, PAIRS, device=DEVICE)


@pytest.mark.parametrize("gigabytes", [3, 4, 6, 8, 12, 24, 80])
def test_tiles_for_cards(gigabytes: int) -> None:
    """COCO with vectors of 512 in what is free on cards, the first two of them half full."""
    layout = Layout.plan(
        images=123_287,
        texts=616_767,
        pairs=np.stack([np.arange(616_767) // 5, np.arange(616_767)], axis=1),
        width=512,
        precision=torch.float16,
        device="cuda",
        result=740_054 * 192 + 616_767 * 96,
        memory=int(0.9 * gigabytes * 10**9),
    )
    assert min(layout.tile) >= 2048, "a program's blocks of a tile occupy every multiprocessor"
    assert layout.images >= 8 * layout.tile[0]


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_the_precision_where_fp16_fails_its_self_test(
    bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device without bf16 does not use it."""
    monkeypatch.setattr(bounds, "trusted", lambda name, _: name != "fp16")
    monkeypatch.setattr(bounds, "has_native_bf16", lambda _: bf16)
    assert bounds.device_precision("cuda") == expected


def test_products_accumulate_in_float32_only_within_a_ranking() -> None:
    flags = torch.backends.cuda.matmul
    before = flags.allow_fp16_reduced_precision_reduction
    with bounds.accumulation_in_float32():
        assert not flags.allow_fp16_reduced_precision_reduction
        assert not flags.allow_bf16_reduced_precision_reduction
    assert flags.allow_fp16_reduced_precision_reduction == before
