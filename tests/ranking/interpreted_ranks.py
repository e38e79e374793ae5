"""Whole rankings on a simulated device; `test_fused` runs them in a process with TRITON_INTERPRET=1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from simulated_device import DEVICE, SimulatedDevice, ThisThread, on_values
from test_ranking import cone_vectors, draw_pairs, dyadic_vectors, generic, generic_vectors, same, sample_pairs

from clipstore.ranking import blocks, fused, parts, rank_pairs


@pytest.fixture(autouse=True)
def _device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(fused, "launch", on_values(fused.launch))
    monkeypatch.setitem(fused.SETTLE_OPTIONS, "BLOCK_CELLS", 1024)  # the interpreter runs one block after another
    monkeypatch.setattr(parts, "ThreadPoolExecutor", ThisThread)
    monkeypatch.setattr(blocks, "ThreadPoolExecutor", ThisThread)
    with SimulatedDevice():
        yield


def vectors_with_ties(images: int, texts: int, width: int) -> tuple[Any, Any, Any]:
    left, right = generic(images, width, 1), generic(texts, width, 2)
    right[::6] = right[0]
    return left, right, sample_pairs(images, texts)


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


def test_ranks_over_many_tiles_equal_those_of_the_cpu() -> None:
    """Hits are missing in the first tiles; in all, more cells are undecided than the list of a tile has room for."""
    images, texts, pairs = vectors_with_ties(150, 300, 24)
    assert same(rank_pairs(images, texts, pairs, device=DEVICE), rank_pairs(images, texts, pairs))
