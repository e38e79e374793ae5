"""Ranks equal a brute force, including ties, for every memory budget, number of threads and order of the pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from math import fsum
from typing import Any

import numpy as np
import pytest
import torch
from helpers import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking import BadRowError, DirectionRanks, Ranks, bounds, kernels, rank_pairs, screening
from clipstore.ranking.bands import KeyScale, ScreenedTile
from clipstore.ranking.blocks import Layout
from clipstore.ranking.bounds import Centre
from clipstore.ranking.integers import IntegerKeys, IntegerRows, centred_lengths, prepare_integers
from clipstore.ranking.prepared import Block, Direction, PreparedRows, State
from clipstore.ranking.tiles import CpuScreen, DeviceScreen, TileSide, key_scale

Array = NDArray[Any]

# Few values whose products and sums are exact in float32 and in float64, so that there are many ties; zero rows too.
QUARTERS = st.integers(-3, 3).map(lambda value: value / 4)


@st.composite
def dyadic_vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    """Images and texts of 0 to 9 rows of one width, often with equal rows and with equal scores."""
    width = draw(st.sampled_from([0, 1, 2, 3, 8, 17]))
    dtypes = st.sampled_from([np.float16, np.float32])
    images, texts = (
        draw(hnp.arrays(draw(dtypes), (draw(st.integers(0, 9)), width), elements=QUARTERS)) for _ in range(2)
    )
    return images, texts


@st.composite
def generic_vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    """Unit vectors in general position, some of them twice, some one float32 step away from another."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.sampled_from([2, 16, 100]))
    sides = []
    for _ in range(2):
        rows = rng.normal(size=(draw(st.integers(1, 8)), width))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        nudged = rows.copy()
        nudged[:, 0] = np.nextafter(nudged[:, 0], np.float32(2))
        sides.append(rng.permutation(np.concatenate([rows, rows[:3], nudged])))
    return sides[0], sides[1]


def draw_pairs(data: st.DataObject, images: Array, texts: Array) -> Array:
    """Any pairs, including duplicates."""
    every = list(product(range(len(images)), range(len(texts))))
    chosen = data.draw(st.lists(st.sampled_from(every), max_size=15)) if every else []
    return np.array(chosen, dtype=np.int64).reshape(-1, 2)


SCREENS = st.sampled_from(["auto", "int8", "fp16", "bf16", "fp32", "fp64"])


def exact_scores(images: Array, texts: Array) -> Array:
    """Every score, correctly rounded: a product of two float32 is exact in float64, and fsum rounds once."""
    left, right = images.astype(np.float64).tolist(), texts.astype(np.float64).tolist()
    scores = [[fsum(a * b for a, b in zip(row, column, strict=True)) for column in right] for row in left]
    return np.array(scores, dtype=np.float64).reshape(len(left), len(right))


def check_direction(ranks: DirectionRanks, scores: Array, pairs: Array, top_k: int) -> None:
    """Check counts and hits against the full matrix of scores."""
    query, positive = pairs[:, 0], pairs[:, 1]
    assert ranks.query.tolist() == query.tolist()
    assert ranks.positive.tolist() == positive.tolist()
    for place, (row, column) in enumerate(pairs.tolist()):
        others = np.delete(scores[row], column)
        assert ranks.n_greater[place] == (others > scores[row, column]).sum()
        assert ranks.n_equal[place] == (others == scores[row, column]).sum()
    np.testing.assert_allclose(ranks.score, scores[query, positive], rtol=1e-12, atol=1e-12)
    assert ranks.hits.shape == ranks.hit_scores.shape == (len(scores), top_k)
    for row, hits, hit_scores in zip(scores, ranks.hits, ranks.hit_scores, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k]
        assert hits.tolist() == best.tolist() + [-1] * (top_k - len(best))
        np.testing.assert_allclose(hit_scores[: len(best)], row[best], rtol=1e-12, atol=1e-12)
        assert np.isnan(hit_scores[len(best) :]).all()


def check(ranks: Ranks, scores: Array, pairs: Array, top_k: int) -> None:
    check_direction(ranks.image_to_text, scores, pairs, top_k)
    check_direction(ranks.text_to_image, scores.T, pairs[:, ::-1], top_k)


def same(first: Ranks, second: Ranks) -> bool:
    """Bitwise equal."""
    return all(
        np.array_equal(vars(left)[name], vars(right)[name], equal_nan=name in ("score", "hit_scores"))
        for left, right in ((first.image_to_text, second.image_to_text), (first.text_to_image, second.text_to_image))
        for name in vars(left)
    )


def least_memory(images: Array, texts: Array, pairs: Array, screen: str = "auto", device: str = "cpu") -> int:
    """The bytes that the error requires: the smallest blocks."""
    with pytest.raises(VectorError) as caught:
        rank_pairs(images, texts, pairs, memory=1, screen=screen, device=device)
    required = re.search(r"at least (\d+)$", str(caught.value))
    assert required, caught.value
    return int(required[1])


def vectors(images: int, texts: int, width: int, seed: int = 0) -> tuple[Array, Array]:
    """Dyadic values in general position with some equal rows: scores are exact and most are distinct."""
    rng = np.random.default_rng(seed)
    left, right = ((rng.normal(size=(rows, width)) * 64).round() / 64 for rows in (images, texts))
    left[::7] = left[0]
    right[::5] = right[0]
    return left.astype(np.float32), right.astype(np.float32)


def sample_pairs(images: int, texts: int, seed: int = 0) -> Array:
    """Each text with one image, in random order, and several images with more texts."""
    rng = np.random.default_rng(seed)
    single = np.stack([rng.integers(0, images, texts), np.arange(texts)], axis=1)
    return rng.permutation(np.concatenate([single, single[::3], rng.integers(0, min(images, texts), (9, 2))]))


@st.composite
def cone_vectors(draw: st.DrawFn) -> tuple[Array, Array]:
    """Rows of any length near an axis of each side, with zero rows and duplicates: for the effects of centring."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.sampled_from([1, 5, 40]))
    sides = []
    for _ in range(2):
        rows = rng.normal(size=(draw(st.integers(1, 12)), width)) * 10.0 ** draw(st.integers(-6, 3))
        rows += rng.normal(size=width) * 10.0 ** draw(st.integers(-3, 3))
        rows[rng.random(len(rows)) < 0.1] = 0
        sides.append(np.concatenate([rows, rows[:2]]).astype(draw(st.sampled_from([np.float16, np.float32]))))
    return sides[0], sides[1]


@examples(400)
@given(data=st.data(), sides=dyadic_vectors(), top_k=st.integers(0, 12), screen=SCREENS)
def test_ranks_of_dyadic_vectors_equal_a_brute_force(
    data: st.DataObject, sides: tuple[Array, Array], top_k: int, screen: str
) -> None:
    pairs = draw_pairs(data, *sides)
    check(rank_pairs(*sides, pairs, top_k=top_k, screen=screen), exact_scores(*sides), pairs, top_k)


@examples(600)
@given(
    data=st.data(),
    sides=st.one_of(generic_vectors(), cone_vectors()),
    top_k=st.sampled_from([0, 1, 3, 30]),
    screen=SCREENS,
)
def test_ranks_of_generic_vectors_equal_a_brute_force(
    data: st.DataObject, sides: tuple[Array, Array], top_k: int, screen: str
) -> None:
    pairs = draw_pairs(data, *sides)
    check(rank_pairs(*sides, pairs, top_k=top_k, screen=screen), exact_scores(*sides), pairs, top_k)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_ranks_over_many_blocks_equal_a_brute_force(dtype: type) -> None:
    left, right = (side.astype(dtype) for side in vectors(230, 610, 12))
    pairs = sample_pairs(230, 610)
    scores = left.astype(np.float64) @ right.astype(np.float64).T  # exact, for the values are dyadic
    check(rank_pairs(left, right, pairs, memory=least_memory(left, right, pairs)), scores, pairs, 10)


def test_the_default_blocks_equal_a_brute_force() -> None:
    left, right = vectors(1100, 8300, 12)
    pairs = sample_pairs(1100, 8300)
    scores = left.astype(np.float64) @ right.astype(np.float64).T
    check(rank_pairs(left, right, pairs), scores, pairs, 10)


@pytest.mark.parametrize("screen", ["int8", "bf16", "fp32", "fp64"])
@pytest.mark.parametrize("width", [64, 512, 1024])
def test_candidates_closer_than_float32_resolves(width: int, screen: str) -> None:
    """Texts whose scores lie within 1e-7 of the positive's on both sides, where a float32 product is noise."""
    rng = np.random.default_rng(width)
    image = rng.normal(size=width) / np.sqrt(width)
    texts = np.repeat((image + rng.normal(size=width) / width)[None].astype(np.float32), 41, axis=0)
    for step in range(41):  # each step moves one coordinate by one float32 step; text 20 is the positive
        for _ in range(abs(step - 20)):
            at = abs(step - 20) % width
            texts[step, at] = np.nextafter(texts[step, at], np.float32(9 if (step > 20) == (image[at] > 0) else -9))
    images = image[None].astype(np.float32)
    scores = exact_scores(images, texts)
    assert 0 < np.abs(scores - scores[0, 20]).max() < 1e-6
    ranks = rank_pairs(images, texts, np.array([[0, 20]]), screen=screen).image_to_text
    assert (ranks.n_greater[0], ranks.n_equal[0]) == (20, 0)
    assert ranks.hits[0].tolist() == np.argsort(-scores[0], kind="stable")[:10].tolist()


@pytest.mark.parametrize(
    "screen", ["int8", "bf16", *(pytest.param(screen, marks=pytest.mark.full) for screen in ("fp32", "fp64"))]
)
def test_thousands_of_candidates_within_a_millionth_of_a_positive(screen: str) -> None:
    """6,000 texts around one image's positive, moved across the image by at most 1e-6, and the same the other way."""
    rng = np.random.default_rng(4)
    image = generic(1, 128, 5)[0].astype(np.float64)
    base = generic(1, 128, 6)[0].astype(np.float64)
    moves = rng.uniform(-1e-6, 1e-6, size=(6000, 1))
    across = rng.normal(size=(6000, 128))
    across -= np.outer(across @ image, image) / (image @ image)
    texts = (base + moves * image / (image @ image) + 1e-3 * across).astype(np.float32)
    images = np.concatenate([image[None], generic(20, 128, 7)]).astype(np.float32)
    scores = exact_scores(images, texts)
    assert (np.abs(scores[0] - scores[0, 17]) < 3e-6).sum() > 5000
    assert len(np.unique(scores[0])) > 5000
    pairs = np.array([[0, 17], [0, 4000], [3, 17]])
    check(rank_pairs(images, texts, pairs, screen=screen), scores, pairs, 10)
    check(rank_pairs(texts, images, pairs[:, ::-1], screen=screen), scores.T, pairs[:, ::-1], 10)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set torch's threads for the time of a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def generic(rows: int, width: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    sides = rng.normal(size=(rows, width))
    return (sides / np.linalg.norm(sides, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.full)])
def test_memory_threads_and_screens_change_nothing(count: int, threads: Callable[[int], None]) -> None:
    images, texts = generic(700, 48, 1), generic(2500, 48, 2)
    texts[::6] = texts[0]
    pairs = sample_pairs(700, 2500)
    usual = rank_pairs(images, texts, pairs)
    threads(count)
    least = least_memory(images, texts, pairs)
    for screen in ("int8", "bf16", "fp32", "fp64"):
        budgets = [least_memory(images, texts, pairs, screen), least * 5 // 4, 2 * least, 6 * least, 2**31]
        for memory in budgets:
            ranks = rank_pairs(images, texts, pairs, memory=max(memory, budgets[0]), screen=screen)
            assert same(ranks, usual), (count, memory, screen)
            assert ranks.screen == screen
            assert 0 < ranks.rechecked <= 700 * 2500
        assert torch.get_num_threads() == count


def test_progress_ends_at_its_total() -> None:
    images, texts = generic(300, 8, 1), generic(5000, 8, 2)
    calls: list[tuple[int, int]] = []
    rank_pairs(images, texts, PAIRS, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (5000, 5000)


def as_one_tile(rows: PreparedRows) -> PreparedRows:
    """The rows in one tile, which those whose values exceed int8 share with the others."""
    rows.tiles = [slice(0, len(rows.values))]
    rows.greatest = rows.greatest.amax(dim=0, keepdim=True)
    if rows.fine_greatest is not None:
        rows.fine_greatest = rows.fine_greatest.amax(dim=0, keepdim=True)
    return rows


def tile_sides(
    images: Array, texts: Array, pairs: Array, name: str, top_k: int, key_precision: torch.dtype | None = None
) -> tuple[TileSide, TileSide, KeyScale, Centre]:
    """Both sides of the only tile of a small matrix, with the floor of one other hit."""
    scores = (images.astype(np.float64) @ texts.astype(np.float64).T)[tuple(pairs.T)]
    mean, other = (torch.from_numpy(side.mean(axis=0, dtype=np.float64)) for side in (images, texts))
    state = State(
        layout=Layout(images=64, texts=64, tile=(64, 64)),
        precision=bounds.PRECISIONS[name],
        device="cpu",
        centre=Centre(mean=mean, other_mean=other, shift=float(scores.mean()) if len(scores) else 0.0, left=True),
        rows=Direction(range(len(images)), pairs[:, 0], scores, top_k),
        columns=Direction(range(len(texts)), pairs[:, 1], scores, top_k),
    )
    left, right = (
        Block(as_one_tile(PreparedRows(side, 0, state, left=is_left)), state, left=is_left)
        for side, is_left in ((images, True), (texts, False))
    )
    whole = slice(0, 64)
    scale = key_scale(left.rows, whole, right.rows, key_precision or state.precision)
    row_bands, column_bands = left.bands(0, right.rows, 0, scale), right.bands(0, left.rows, 0, scale)
    return (
        TileSide(rows=left.rows, part=whole, bands=row_bands),
        TileSide(rows=right.rows, part=whole, bands=column_bands),
        scale,
        state.centre,
    )


def check_side(side: TileSide, cells: ScreenedTile, scores: Array, top_k: int, *, is_row: bool) -> None:
    """The sure counts and the undecided cells together give the counts at every target; all hits are possible hits."""
    sure = cells.row_sure if is_row else cells.column_sure
    query, other = (cells.rows, cells.columns) if is_row else (cells.columns, cells.rows)
    for layer, targets in enumerate(side.bands.targets):
        for number in np.flatnonzero(~np.isnan(targets)):
            here = query == number
            near = (cells.keys > side.bands.low[layer, number]) & (cells.keys <= side.bands.high[layer, number])
            listed = scores[number, other[here & near]]
            assert sure[layer, number] + (listed > targets[number]).sum() == (scores[number] > targets[number]).sum()
            assert (listed == targets[number]).sum() == (scores[number] == targets[number]).sum()
    if cells.hits:
        query, other = (cells.hits.rows, cells.hits.columns) if is_row else (cells.hits.columns, cells.hits.rows)
        assert (cells.reached <= scores[query, other]).all()
        assert (scores[query, other] <= cells.hits.most).all()
    for number, row in enumerate(scores):
        best = np.sort(row)[::-1][:top_k]
        assert set(np.flatnonzero(row >= best[-1]) if len(best) else ()) <= set(other[query == number])


@examples(200)
@given(
    data=st.data(),
    sides=st.one_of(dyadic_vectors(), generic_vectors()),
    top_k=st.integers(0, 3),
    name=st.sampled_from(list(bounds.PRECISIONS)),
    on_device=st.booleans(),
)
def test_a_screened_tile_proves_or_lists_every_score(
    data: st.DataObject, sides: tuple[Array, Array], top_k: int, name: str, on_device: bool
) -> None:
    """The compiled loops, and the operations for CUDA on the CPU."""
    images, texts = (side.astype(np.float32) for side in sides)
    assume(len(images) and len(texts))
    assume(name != "int8" or not on_device)
    left, right, scale, centre = tile_sides(images, texts, draw_pairs(data, images, texts), name, top_k)
    screen = DeviceScreen(top_k) if on_device else CpuScreen((64, 64), bounds.PRECISIONS[name], top_k)
    cells = screen(left, right, scale)
    scores = np.empty((len(images), len(texts)))
    rows, columns = (index.ravel().astype(np.int32) for index in np.indices(scores.shape))
    kernels.score_cells(left.rows.values, rows, right.rows.values, columns, scores.reshape(-1))
    scores -= centre.shift
    check_side(left, cells, scores, top_k, is_row=True)
    check_side(right, cells, scores.T, top_k, is_row=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("screen", ["auto", "fp16", "bf16", "fp32", "fp64"])
def test_cuda_equals_the_cpu(screen: str) -> None:
    images, texts = generic(3000, 256, 1), generic(20_000, 256, 2)
    texts[::6] = texts[0]
    pairs = sample_pairs(3000, 20_000)
    assert same(rank_pairs(images, texts, pairs, device="cuda", screen=screen), rank_pairs(images, texts, pairs))


# --- the certificate


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


def test_vectors_too_wide_for_int8() -> None:
    images, texts = generic(3, 16_385, 1), generic(5, 16_385, 2)
    pairs = np.array([[0, 1], [2, 4]])
    ranks = rank_pairs(images, texts, pairs)
    assert ranks.screen != "int8"
    check(ranks, exact_scores(images, texts), pairs, 10)
    with pytest.raises(VectorError, match="too wide"):
        rank_pairs(images, texts, pairs, screen="int8")


def test_loops_are_compiled_for_contiguous_arrays_only() -> None:
    """Also where tiles are parts of blocks: each other layout would take seconds to compile."""
    images, texts = vectors(1100, 3200, 6)
    rank_pairs(images, texts, sample_pairs(1100, 3200))
    for loop in (screening.screen, kernels.accumulate_counts, kernels.raise_floors, kernels.score_cells):
        assert loop.signatures
        for signature in loop.signatures:
            arrays = [part for kind in signature for part in getattr(kind, "types", [kind]) if hasattr(part, "layout")]
            assert {array.layout for array in arrays} == {"C"}


def test_pairs_have_any_order_and_integer_type() -> None:
    images, texts = vectors(50, 120, 6)
    pairs = sample_pairs(50, 120)
    order = np.random.default_rng(3).permutation(len(pairs))
    usual, shuffled = rank_pairs(images, texts, pairs), rank_pairs(images, texts, pairs[order].astype(np.uint16))
    for ordered, permuted in (
        (usual.image_to_text, shuffled.image_to_text),
        (usual.text_to_image, shuffled.text_to_image),
    ):
        for name in ("query", "positive", "n_greater", "n_equal", "score"):
            assert np.array_equal(vars(ordered)[name][order], vars(permuted)[name]), name
        assert np.array_equal(ordered.hits, permuted.hits)


def test_constant_scores_tie_all_candidates() -> None:
    images, texts = np.full((40, 8), 0.25, np.float32), np.full((200, 8), 0.25, np.float16)
    pairs = sample_pairs(40, 200)
    ranks = rank_pairs(images, texts, pairs, memory=least_memory(images, texts, pairs))
    for side, others in ((ranks.image_to_text, 199), (ranks.text_to_image, 39)):
        assert set(side.n_greater) == {0}
        assert set(side.n_equal) == {others}
        assert set(side.score) == {0.5}
        assert (side.hits == np.arange(10)).all()


def test_a_zero_vector_scores_0() -> None:
    images = np.array([[0, 0], [1, 0]], np.float32)
    texts = np.array([[-1, 0], [0, 0], [1, 0]], np.float32)
    ranks = rank_pairs(images, texts, np.array([[0, 0], [1, 1]])).image_to_text
    assert ranks.score.tolist() == [0, 0]
    assert ranks.n_greater.tolist() == [0, 1]
    assert ranks.n_equal.tolist() == [2, 0]
    assert ranks.hits[:, :4].tolist() == [[0, 1, 2, -1], [2, 1, 0, -1]]


def test_large_and_tiny_values_keep_their_order() -> None:
    """Squares of these leave float32's range of normal numbers at both ends."""
    for scale in (2.0**55, 2.0**-70):
        texts = (np.array([[1, 1], [1, 2], [2, 1], [2, 2]]) * scale).astype(np.float32)
        ranks = rank_pairs(texts, texts, np.array([[1, 1], [1, 2]])).image_to_text
        assert ranks.n_greater.tolist() == [1, 2]
        assert ranks.hits[1, :4].tolist() == [3, 1, 2, 0]


@pytest.mark.parametrize("screen", ["int8", "bf16", "fp32"])
def test_targets_below_all_sums_of_a_tile(screen: str) -> None:
    """Values of narrow rows exceed int8, so that no sum is near the least scores: all others are above them."""
    images, texts = vectors(150, 65, 1)
    pairs = sample_pairs(150, 65)
    memory = least_memory(images, texts, pairs, screen)
    for top_k in (0, 2):
        ranks = rank_pairs(images, texts, pairs, top_k=top_k, screen=screen, memory=memory)
        check(ranks, exact_scores(images, texts), pairs, top_k)


def _spoiled(value: float) -> Array:
    rows = np.ones((3, 4), np.float32)
    rows[2, 1] = value
    return rows


GOOD = np.ones((3, 4), np.float32)
PAIRS = np.array([[0, 0]])
BAD_CALLS: dict[str, tuple[Array, Array, Array, dict[str, Any], list[str]]] = {
    "NaN": (_spoiled(np.nan), GOOD, PAIRS, {}, ["image vector 2", "NaN"]),
    "infinity": (GOOD, _spoiled(np.inf), PAIRS, {}, ["text vector 2"]),
    "float16 infinity": (GOOD, _spoiled(-np.inf).astype(np.float16), PAIRS, {}, ["text vector 2"]),
    "above 1e18": (_spoiled(3e38), GOOD, PAIRS, {}, ["image vector 2", "1e18"]),
    "widths": (GOOD, GOOD[:, :3], PAIRS, {}, ["(3, 4)", "(3, 3)", "width"]),
    "one dimension": (GOOD[0], GOOD, PAIRS, {}, ["(4,)"]),
    "float64": (GOOD.astype(np.float64), GOOD, PAIRS, {}, ["float64"]),
    "integers": (GOOD, GOOD.astype(np.int64), PAIRS, {}, ["int64"]),
    "float pairs": (GOOD, GOOD, PAIRS.astype(np.float64), {}, ["pairs", "float64"]),
    "triples": (GOOD, GOOD, np.zeros((2, 3), np.int64), {}, ["pairs", "(2, 3)"]),
    "pair beyond": (GOOD, GOOD, np.array([[0, 0], [1, 3]]), {}, ["[1, 3]", "3 texts"]),
    "pair below": (GOOD, GOOD, np.array([[-1, 0]]), {}, ["[-1, 0]"]),
    "pair of none": (GOOD[:0], GOOD, PAIRS, {}, ["[0, 0]", "0 images"]),
    "memory": (GOOD, GOOD, PAIRS, {"memory": 1000}, ["1000 bytes", "at least"]),
    "screen": (GOOD, GOOD, PAIRS, {"screen": "int4"}, ["int4", "bf16"]),
    "int8 on a GPU": (GOOD, GOOD, PAIRS, {"screen": "int8", "device": "cuda"}, ["int8", "for CPUs", "auto"]),
    "top_k": (GOOD, GOOD, PAIRS, {"top_k": -1}, ["top_k", "-1"]),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_errors_of_invalid_calls_are_one_line(case: str) -> None:
    images, texts, pairs, options, words = BAD_CALLS[case]
    with pytest.raises(VectorError) as caught:
        rank_pairs(images, texts, pairs, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


def test_error_of_a_bad_row_has_side_and_row() -> None:
    with pytest.raises(BadRowError) as caught:
        rank_pairs(GOOD, _spoiled(np.nan), PAIRS)
    assert (caught.value.side, caught.value.row) == ("text", 2)


def test_memory_that_the_error_requires_is_the_minimum() -> None:
    needed = least_memory(GOOD, GOOD, PAIRS)
    rank_pairs(GOOD, GOOD, PAIRS, memory=needed)
    with pytest.raises(VectorError):
        rank_pairs(GOOD, GOOD, PAIRS, memory=needed - 1)


def test_hundreds_of_thousands_of_ties() -> None:
    """More cells tie than a tile has, and more than half of the vectors are equal."""
    images, texts = np.ones((260, 4), dtype=np.float32), np.ones((1100, 4), dtype=np.float32)
    texts[1000:] = 0.5
    pairs = np.array([[0, 0], [259, 999], [7, 1050]])
    ranks = rank_pairs(images, texts, pairs)
    assert ranks.image_to_text.n_greater.tolist() == [0, 0, 1000]
    assert ranks.image_to_text.n_equal.tolist() == [999, 999, 99]
    assert ranks.text_to_image.n_equal.tolist() == [259, 259, 259]
    assert (ranks.image_to_text.hits == np.arange(10)).all()
    assert (ranks.text_to_image.hits == np.arange(10)).all()


def test_memory_of_rows_with_many_pairs() -> None:
    """Each pair of the row with the most is a layer of its tile."""
    images, texts = generic(3000, 16, 1), generic(400, 16, 2)
    pairs = sample_pairs(3000, 400)
    many = np.concatenate([pairs, np.stack([np.arange(2500), np.full(2500, 7)], axis=1)])
    least, usual = least_memory(images, texts, many), least_memory(images, texts, pairs)
    assert least > usual + 64 * 2500 * 16
    check(rank_pairs(images, texts, many, memory=least), exact_scores(images, texts), many, 10)
