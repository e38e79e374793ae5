"""Tests of the fused screen in Triton's interpreter; `test_fused` runs them in a process with TRITON_INTERPRET=1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipstore.ranking import bounds, fused
from clipstore.ranking.bands import Bands
from clipstore.ranking.fused import DeviceQueries, device_queries, screen_tile, settle_cells

fused.SETTLE_OPTIONS["BLOCK_CELLS"] = 128  # the interpreter runs one block after another
PRECISIONS = ["fp16", "bf16", "fp32"]


@pytest.fixture(scope="session", autouse=True)
def _bfloat16_products() -> None:
    """The interpreter of Triton 3.7.1 multiplies the bits of bfloat16 as integers."""
    from triton.language import core
    from triton.runtime import interpreter

    product = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: object, a: object, b: object, *others: object) -> object:
        wide = [self.cast_impl(x, core.float32) if x.dtype.scalar == core.bfloat16 else x for x in (a, b)]  # type: ignore[attr-defined]
        return product(self, *wide, *others)

    interpreter.InterpreterBuilder.create_dot = create_dot


def draw_queries(rng: np.random.Generator, values: torch.Tensor, layers: int, precision: torch.dtype) -> DeviceQueries:
    """Queries with bands around quarters, of which a third has no target, and floors from none to all scores."""
    shape = (layers, len(values))
    targets = np.where(rng.random(shape) < 1 / 3, np.nan, rng.integers(-8, 8, shape) / 4)
    floor = rng.choice([-np.inf, 0.0, 1.25, np.inf], len(values), p=[0.05, 0.15, 0.4, 0.4])
    margin = rng.choice([0.0, 0.25, 1.0], len(values))
    bands = Bands.of(targets, floor, margin, margin, bounds.FloatKeys(torch.float32))
    sizes = values.double().norm(dim=1, keepdim=True) * 1e-7
    return device_queries(values, values.to(precision), sizes, bands)


class Tile:
    """A tile of dyadic values, whose products are exact and often tie, and what float64 says of it."""

    def __init__(self, seed: int, sizes: tuple[int, int], width: int, layers: tuple[int, int], name: str) -> None:
        rng = np.random.default_rng(seed)
        left, right = (torch.from_numpy(rng.integers(-3, 4, (n, width)) / 4).float() for n in sizes)
        left[rng.random(len(left)) < 0.1] = 0
        self.rows, self.columns = (
            draw_queries(rng, values, count, bounds.PRECISIONS[name])
            for values, count in zip((left, right), layers, strict=True)
        )
        self.scores = left.double() @ right.double().T + 0.0  # a sum that begins with 0 is never -0
        self.keys = bounds.keys(self.scores.float())
        self.above = self.keys > self.rows.high[:, :, None], self.keys > self.columns.high[:, None, :]
        below = self.keys > self.rows.low[:, :, None], self.keys > self.columns.low[:, None, :]
        self.near = tuple(above ^ low for above, low in zip(self.above, below, strict=True))
        self.possible = (self.keys > self.rows.least[:, None]), (self.keys > self.columns.least)
        self.undecided = self.near[0].any(dim=0) | self.near[1].any(dim=0) | self.possible[0] | self.possible[1]


TILES = {
    "seed": st.integers(0, 2**32 - 1),
    "width": st.sampled_from([1, 5, 31, 32, 33, 70]),
    "layers": st.tuples(st.integers(0, 3), st.integers(0, 3)),
    "name": st.sampled_from(PRECISIONS),
}


@given(**TILES, sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)), share=st.sampled_from([0.0, 0.1, 1.0]))
def test_counts_and_undecided_cells_equal_float64(
    seed: int, sizes: tuple[int, int], width: int, layers: tuple[int, int], name: str, share: float
) -> None:
    tile = Tile(seed, sizes, width, layers, name)
    expected = tile.undecided.flatten().nonzero()[:, 0]
    counts, cells = screen_tile(tile.rows, tile.columns, capacity := int(share * tile.keys.numel()))
    assert torch.equal(counts.rows, tile.above[0].sum(dim=2).int())
    assert torch.equal(counts.columns, tile.above[1].sum(dim=1).int())
    assert int(cells.count) == len(expected)
    packed = cells.packed[: int(cells.count)]
    places = packed >> 32
    assert torch.equal(packed << 32 >> 32, tile.keys.flatten()[places].long())
    assert len(places.unique()) == len(places) == min(len(expected), capacity)
    assert torch.isin(places, expected).all()


@given(**TILES, sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)), shift=st.sampled_from([0.0, 0.25, -3.0]))
def test_settled_cells_equal_float64(
    seed: int, sizes: tuple[int, int], width: int, layers: tuple[int, int], name: str, shift: float
) -> None:
    """A cell is left if it ties with a target that it is near to, or can be a hit; the others are counted."""
    tile = Tile(seed, sizes, width, layers, name)
    counts, cells = screen_tile(tile.rows, tile.columns, tile.keys.numel())
    left = settle_cells(cells, tile.rows, tile.columns, torch.tensor([shift], dtype=torch.float64), counts)
    places = (left.packed[: int(left.count)] >> 32).sort().values

    scores = tile.scores - shift
    ties = (
        tile.near[0] & (scores == tile.rows.targets[:, :, None]),
        tile.near[1] & (scores == tile.columns.targets[:, None, :]),
    )
    hit = (tile.possible[0] & (scores >= tile.rows.floor[:, None])) | (
        tile.possible[1] & (scores >= tile.columns.floor)
    )
    expected = hit | ties[0].any(dim=0) | ties[1].any(dim=0)
    assert torch.equal(places, expected.flatten().nonzero()[:, 0])
    rows = tile.near[0] & (scores > tile.rows.targets[:, :, None]) & ~expected
    columns = tile.near[1] & (scores > tile.columns.targets[:, None, :]) & ~expected
    assert torch.equal(counts.rows, (tile.above[0].sum(dim=2) + rows.sum(dim=2)).int())
    assert torch.equal(counts.columns, (tile.above[1].sum(dim=1) + columns.sum(dim=1)).int())
