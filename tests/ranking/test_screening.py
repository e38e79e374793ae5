"""One tile: what its products prove, their bounds, and the keys by which they are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rank_cases import draw_pairs, dyadic_vectors, exact_scores, generic_vectors

from clipstore.ranking import bounds, kernels, screening
from clipstore.ranking.aligned import empty_rows
from clipstore.ranking.bands import KeyScale, ScreenedTile
from clipstore.ranking.blocks import Layout
from clipstore.ranking.bounds import Centre
from clipstore.ranking.integers import IntegerKeys, IntegerRows, centred_lengths, prepare_integers
from clipstore.ranking.prepared import Block, Bound, Direction, PreparedRows, State
from clipstore.ranking.tiles import CpuScreen, DeviceScreen, TileSide, key_scale

Array = NDArray[Any]

_TILE = 300  # rows and columns, at most


def as_one_tile(rows: PreparedRows) -> PreparedRows:
    """The rows in one tile, which those whose values exceed int8 share with the others."""
    rows.tiles = [slice(0, len(rows.values))]
    rows.bound = Bound(rows.terms, rows.tiles)
    rows.fine_bound = Bound(rows.integers.fine.terms, rows.tiles) if rows.integers else None
    return rows


def tile_sides(
    images: Array, texts: Array, pairs: Array, name: str, top_k: int, key_precision: torch.dtype | None = None
) -> tuple[TileSide, TileSide, KeyScale, Centre]:
    """Both sides of the only tile of a small matrix, with the floor of one other hit."""
    scores = (images.astype(np.float64) @ texts.astype(np.float64).T)[tuple(pairs.T)]
    mean, other = (torch.from_numpy(side.mean(axis=0, dtype=np.float64)) for side in (images, texts))
    state = State(
        layout=Layout(images=_TILE, texts=_TILE, tile=(_TILE, _TILE)),
        precision=bounds.PRECISIONS[name],
        device="cpu",
        centre=Centre(mean=mean, other_mean=other, shift=float(scores.mean()) if len(scores) else 0.0, left=True),
        rows=Direction(range(len(images)), pairs[:, 0], scores, top_k),
        columns=Direction(range(len(texts)), pairs[:, 1], scores, top_k),
    )
    left, right = (
        Block(as_one_tile(PreparedRows(side.copy(), 0, state, left=is_left)), state, left=is_left)
        for side, is_left in ((images, True), (texts, False))
    )
    whole = slice(0, _TILE)
    scale = key_scale(left.rows, right.rows, key_precision or state.precision)
    row_bands, column_bands = left.bands(0, right.rows, 0, scale), right.bands(0, left.rows, 0, scale)
    return (
        TileSide(rows=left.rows, part=whole, bands=row_bands),
        TileSide(rows=right.rows, part=whole, bands=column_bands),
        scale,
        state.centre,
    )


def check_side(side: TileSide, cells: ScreenedTile, scores: Array, top_k: int, *, is_row: bool) -> None:
    """The sure counts and the undecided cells together give the counts at every target; all hits are listed."""
    sure = cells.row_sure if is_row else cells.column_sure
    query, other = (cells.rows, cells.columns) if is_row else (cells.columns, cells.rows)
    for layer, targets in enumerate(side.bands.targets):
        for number in np.flatnonzero(~np.isnan(targets)):
            here = query == number
            near = (cells.keys > side.bands.low[layer, number]) & (cells.keys <= side.bands.high[layer, number])
            listed = scores[number, other[here & near]]
            assert sure[layer, number] + (listed > targets[number]).sum() == (scores[number] > targets[number]).sum()
            assert (listed == targets[number]).sum() == (scores[number] == targets[number]).sum()
    hit_query, hit_other = (cells.hits.rows, cells.hits.columns) if is_row else (cells.hits.columns, cells.hits.rows)
    assert (cells.least <= scores[hit_query, hit_other]).all()
    assert (scores[hit_query, hit_other] <= cells.hits.most).all()
    assert not set(zip(query, other, strict=True)) & set(zip(hit_query, hit_other, strict=True))
    for number, row in enumerate(scores):
        best = np.sort(row)[::-1][:top_k]
        assert set(np.flatnonzero(row >= best[-1]) if len(best) else ()) <= {
            *other[query == number],
            *hit_other[hit_query == number],
        }


@examples(200)
@given(
    data=st.data(),
    sides=st.one_of(dyadic_vectors(), generic_vectors()),
    top_k=st.integers(0, 3),
    name=st.sampled_from(list(bounds.PRECISIONS)),
    strip=st.one_of(st.integers(1, 8), st.none()),
)
def test_a_screened_tile_proves_or_lists_every_score(
    data: st.DataObject, sides: tuple[Array, Array], top_k: int, name: str, strip: int | None
) -> None:
    """The compiled loops, strip by strip, and the operations for CUDA on the CPU."""
    images, texts = (side.astype(np.float32) for side in sides)
    assume(len(images) and len(texts))
    assume(name != "int8" or strip)
    left, right, scale, centre = tile_sides(images, texts, draw_pairs(data, images, texts), name, top_k)
    screen = CpuScreen((_TILE, _TILE), bounds.PRECISIONS[name], top_k, strip) if strip else DeviceScreen(top_k)
    cells = screen(left, right, scale)
    scores = np.empty((len(images), len(texts)))
    rows, columns = (index.ravel().astype(np.int32) for index in np.indices(scores.shape))
    kernels.score_cells(left.rows.values, rows, right.rows.values, columns, scores.reshape(-1))
    scores -= centre.shift
    check_side(left, cells, scores, top_k, is_row=True)
    check_side(right, cells, scores.T, top_k, is_row=False)


@examples(60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 30), st.integers(60, _TILE)),
    width=st.sampled_from([2, 16, 100]),
    top_k=st.sampled_from([0, 1, 12]),
    name=st.sampled_from(list(bounds.PRECISIONS)),
    strip=st.integers(1, 40),
)
def test_wide_tiles_prove_or_list_every_score(
    seed: int, sizes: tuple[int, int], width: int, top_k: int, name: str, strip: int
) -> None:
    """Lines of several words of keys, of which few are near a target, or most."""
    rng = np.random.default_rng(seed)
    images, texts = ((rng.normal(size=(size, width)) + 1).astype(np.float32) for size in sizes)
    pairs = np.stack([rng.integers(0, size, 2 * sizes[1]) for size in sizes], axis=1)
    left, right, scale, centre = tile_sides(images, texts, np.unique(pairs, axis=0), name, top_k)
    cells = CpuScreen((_TILE, _TILE), bounds.PRECISIONS[name], top_k, strip)(left, right, scale)
    scores = np.empty(sizes)
    rows, columns = (index.ravel().astype(np.int32) for index in np.indices(sizes))
    kernels.score_cells(left.rows.values, rows, right.rows.values, columns, scores.reshape(-1))
    scores -= centre.shift
    check_side(left, cells, scores, top_k, is_row=True)
    check_side(right, cells, scores.T, top_k, is_row=False)


FLOATS = st.floats(width=32, allow_nan=False, allow_subnormal=True)
FLOAT_SCREENS = [name for name in bounds.PRECISIONS if name != "int8"]


@given(first=FLOATS, second=FLOATS, name=st.sampled_from(FLOAT_SCREENS))
def test_keys_sort_as_floats_do(first: float, second: float, name: str) -> None:
    left, right = torch.tensor([first, second], dtype=torch.float64).to(bounds.PRECISIONS[name])
    keys = bounds.keys(torch.stack([left, right])).tolist()
    if left == right:
        assert abs(keys[0] - keys[1]) <= 1  # 0 and -0 are neighbours
    else:
        assert (keys[0] < keys[1]) == bool(left < right)


@examples(150)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 2, 7, 64, 512, 1500, 9000]),
    scales=st.tuples(st.integers(-42, 15), st.integers(-42, 15)),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    centred=st.booleans(),
    name=st.sampled_from(list(bounds.PRECISIONS)),
)
def test_no_product_leaves_its_band(
    seed: int, width: int, scales: tuple[int, int], offset: float, centred: bool, name: str
) -> None:
    """Each product lies between the rounded ends of score ± m, including tiny, huge and cancelling rows."""
    rng = np.random.default_rng(seed)
    sides = []
    for scale in scales:
        rows = (rng.normal(size=(6, width)) + offset * rng.normal(size=width)) * 10.0**scale
        rows[1, width // 2 :] = -rows[0, width // 2 :]
        rows[2] = 0
        sides.append(rows.astype(np.float32))
    mu, nu = (torch.from_numpy(side.mean(axis=0, dtype=np.float64) * centred) for side in sides)
    scores = exact_scores(*sides)
    centre = bounds.Centre(mean=mu, other_mean=nu, shift=float(scores[0, 0]), left=True)
    check = check_integer_products if name == "int8" else check_float_products
    check(sides, centre, scores - scores[0, 0], name)


def check_float_products(sides: list[Array], centre: Centre, scores: Array, name: str) -> None:
    precision = bounds.PRECISIONS[name]
    left = bounds.prepare(torch.from_numpy(sides[0]), centre, precision)
    right = bounds.prepare(torch.from_numpy(sides[1]), centre.swapped(), precision)
    products = bounds.keys(left.low @ right.low.T).numpy()
    margin = bounds.margins(left.terms, right.terms).T
    scale = bounds.FloatKeys(precision, left.unit * right.unit)
    assert (products <= scale.above(scores + margin)).all()
    assert (products > scale.below(scores - margin)).all()


def check_integer_products(sides: list[Array], centre: Centre, scores: Array, _name: str) -> None:
    """Products of int8 as keys of int16, and products of int16."""
    left, right = (
        prepare_integers(side, centred_lengths(side, view), view, in_int8=True)
        for side, view in zip(sides, (centre, centre.swapped()), strict=True)
    )
    assert left.coarse
    assert right.coarse
    scale = IntegerKeys.of(left.coarse, left.offset, right.coarse, right.offset)
    sums = left.coarse.values.astype(np.int64) @ right.coarse.values.astype(np.int64).T
    keys = (sums + scale.row_offset[:, None] + scale.column_offset) >> scale.shift
    assert np.abs(keys).max() <= 32_767
    margin = bounds.margins(left.coarse.terms, right.coarse.terms).T + scale.lost
    assert (keys <= scale.above(scores + margin)).all()
    assert (keys > scale.below(scores - margin)).all()
    assert (scale.least(keys.astype(np.int16)) <= scores + margin).all()
    check_fine_products(left, right, scores)
    left, right = (
        prepare_integers(side, centred_lengths(side, view), view, in_int8=False)
        for side, view in zip(sides, (centre, centre.swapped()), strict=True)
    )
    assert left.coarse is None
    check_fine_products(left, right, scores)


def check_fine_products(left: IntegerRows, right: IntegerRows, scores: Array) -> None:
    rows, columns = (side.fine.values.astype(np.int64) for side in (left, right))
    assert (np.abs(rows) @ np.abs(columns).T).max() < 2**31
    approximate = (rows @ columns.T) * (left.fine.step * right.fine.step) + (left.offset[:, None] + right.offset)
    assert (np.abs(approximate - scores) <= bounds.margins(left.fine.terms, right.fine.terms).T).all()


@pytest.mark.parametrize("name", list(bounds.PRECISIONS))
def test_products_of_this_machine_satisfy_the_assumptions(name: str) -> None:
    assert bounds.trusted(name, "cpu")


@examples(100)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    count=st.integers(1, 20),
    kind=st.sampled_from([np.int16, np.int32, np.int64]),
)
def test_candidates_reach_the_best_of_groups(seed: int, sizes: tuple[int, int], count: int, kind: type) -> None:
    """And where groups have one candidate each, no greater key is reached by as many."""
    keys = np.random.default_rng(seed).integers(-99, 99, sizes).astype(kind)
    for loop, rows in ((screening.best_in_rows, keys), (screening.best_in_columns, keys.T)):
        candidates = rows.shape[1]
        for groups in {count, min(64, candidates), candidates}:
            if count <= groups <= candidates:
                best = np.empty(len(rows), dtype=kind)
                loop(keys, groups, count, best)
                assert ((rows >= best[:, None]).sum(axis=1) >= count).all()
                if groups == candidates:
                    assert np.array_equal(best, np.sort(rows, axis=1)[:, -count])


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 40))
def test_rows_are_reordered_in_place(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    values, order = rng.integers(-99, 99, (rows, 3)).astype(np.int16), rng.permutation(rows)
    expected = values[order]
    kernels.reorder_rows(values, order)
    assert np.array_equal(values, expected)


@given(count=st.integers(1, 9), width=st.integers(1, 600), kind=st.sampled_from(["int8", "int16", "float32"]))
def test_rows_are_aligned_to_cache_lines(count: int, width: int, kind: str) -> None:
    rows = empty_rows(count, width, kind)
    assert rows.shape == (count, width)
    assert rows.dtype == kind
    assert rows.flags.c_contiguous
    assert rows.ctypes.data % 64 == 0


@given(seed=st.integers(0, 2**32 - 1), cells=st.integers(0, 60))
def test_cells_that_reach_a_floor_are_chosen(seed: int, cells: int) -> None:
    """The others are left out, in the order of the cells."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, 5, (2, cells)).astype(np.int32)
    most, row_floor, column_floor = (rng.integers(-4, 4, size).astype(np.float64) for size in (cells, 5, 5))
    chosen = np.empty((2, cells), dtype=np.int32)
    count = kernels.choose_possible(rows, columns, most, row_floor, column_floor, chosen)
    reached = (most >= row_floor[rows]) | (most >= column_floor[columns])
    assert np.array_equal(chosen[:, :count], np.stack([rows, columns])[:, reached])


@given(seed=st.integers(0, 2**32 - 1), cells=st.integers(0, 60), top_k=st.integers(1, 5))
def test_floors_are_the_greatest_that_candidates_reach(seed: int, cells: int, top_k: int) -> None:
    rng = np.random.default_rng(seed)
    query, least = rng.integers(0, 4, cells).astype(np.int32), rng.integers(-5, 5, cells) / 4
    reached, floor = np.full((4, top_k), -np.inf), np.full(4, -np.inf)
    for part in (slice(cells // 2), slice(cells // 2, None)):
        kernels.raise_floors(query[part], least[part], reached, floor)
    expected = np.full((4, top_k), -np.inf)
    for row in range(4):
        best = np.sort(least[query == row])[::-1][:top_k]
        expected[row, : len(best)] = best
    assert np.array_equal(reached, expected)
    assert np.array_equal(floor, expected[:, -1])
