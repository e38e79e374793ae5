"""Tests of the fused screen in Triton's interpreter; `test_fused` runs them in a process with TRITON_INTERPRET=1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipstore.ranking import bounds
from clipstore.ranking.fused import DeviceBands, screen_tile

PRECISIONS = ["fp16", "bf16", "fp32"]
NO_TARGET = bounds.magnitude(torch.float32)


@pytest.fixture(scope="session", autouse=True)
def _bfloat16_products() -> None:
    """Triton 3.9's interpreter multiplies the bits of bfloat16 as integers."""
    from triton.language import core
    from triton.runtime import interpreter

    product = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: object, a: object, b: object, *others: object) -> object:
        wide = [self.cast_impl(x, core.float32) if x.dtype.scalar == core.bfloat16 else x for x in (a, b)]  # type: ignore[attr-defined]
        return product(self, *wide, *others)

    interpreter.InterpreterBuilder.create_dot = create_dot


def draw_bands(rng: np.random.Generator, layers: int, count: int) -> DeviceBands:
    """Bands around quarters, of which a third has no target, and floors from none to all scores."""
    target = torch.from_numpy(rng.integers(-8, 8, (layers, count)) / 4)
    margin = torch.from_numpy(rng.choice([0.0, 0.25, 1.0], (layers, count)))
    absent = torch.from_numpy(rng.random((layers, count)) < 1 / 3)
    floor = torch.from_numpy(rng.choice([-np.inf, 0.0, 1.25, np.inf], count, p=[0.05, 0.15, 0.4, 0.4]))
    return DeviceBands(
        low=bounds.surely_below(target - margin, torch.float32).masked_fill(absent, NO_TARGET),
        high=bounds.surely_above(target + margin, torch.float32).masked_fill(absent, NO_TARGET),
        floor=bounds.surely_below(floor, torch.float32).masked_fill(floor == torch.inf, NO_TARGET),
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    width=st.sampled_from([1, 5, 31, 32, 33, 70]),
    layers=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    name=st.sampled_from(PRECISIONS),
    share=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_the_kernel_equals_float64(
    seed: int, sizes: tuple[int, int], width: int, layers: tuple[int, int], name: str, share: float
) -> None:
    """Counts, and the undecided cells with their keys, of dyadic values: every product is exact, and many tie."""
    rng = np.random.default_rng(seed)
    left, right = (torch.from_numpy(rng.integers(-3, 4, (n, width)) / 4).to(bounds.PRECISIONS[name]) for n in sizes)
    left[rng.random(len(left)) < 0.1] = 0
    rows, columns = (draw_bands(rng, *side) for side in zip(layers, sizes, strict=True))
    keys = bounds.keys((left.double() @ right.double().T + 0.0).float())  # a sum that begins with 0 is never -0
    above_row, above_column = keys > rows.high[:, :, None], keys > columns.high[:, None, :]
    near = (keys > rows.floor[:, None]) | (keys > columns.floor)
    near |= (above_row ^ (keys > rows.low[:, :, None])).any(dim=0)
    near |= (above_column ^ (keys > columns.low[:, None, :])).any(dim=0)
    expected = near.flatten().nonzero()[:, 0]

    result = screen_tile(left, right, rows, columns, capacity := int(share * near.numel()))
    assert torch.equal(result.row_sure, above_row.sum(dim=2).int())
    assert torch.equal(result.column_sure, above_column.sum(dim=1).int())
    assert result.count == len(expected)
    places, order = result.places.sort()
    assert torch.equal(result.keys[order], keys.flatten()[places].long())
    assert len(places) == min(len(expected), capacity)
    assert len(places.unique()) == len(places)
    assert torch.isin(places, expected).all()
