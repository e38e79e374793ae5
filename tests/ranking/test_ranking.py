"""Ranks equal a brute force, including ties, for every memory budget, number of threads and order of the pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rank_cases import (
    check,
    cone_vectors,
    draw_pairs,
    dyadic_vectors,
    exact_scores,
    generic,
    generic_vectors,
    least_memory,
    same,
    sample_pairs,
    vectors,
)

from clipstore.errors import VectorError
from clipstore.ranking import BadRowError, kernels, rank_pairs, screening

Array = NDArray[Any]

# Few values whose products and sums are exact in float32 and in float64, so that there are many ties; zero rows too.

SCREENS = st.sampled_from(["auto", "int8", "fp16", "bf16", "fp32", "fp64"])


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("screen", ["auto", "fp16", "bf16", "fp32", "fp64"])
def test_cuda_equals_the_cpu(screen: str) -> None:
    images, texts = generic(3000, 256, 1), generic(20_000, 256, 2)
    texts[::6] = texts[0]
    pairs = sample_pairs(3000, 20_000)
    assert same(rank_pairs(images, texts, pairs, device="cuda", screen=screen), rank_pairs(images, texts, pairs))


# --- the certificate


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


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (2049, 2), (5, 1)])
def test_reversed_and_read_only_rows(rows: int, width: int) -> None:
    """The last rows that are read at once can be one."""
    images, texts = generic(rows, width, 1), generic(7, width, 2)
    pairs = sample_pairs(rows, 7)
    expected = rank_pairs(images[::-1, ::-1].copy(), texts[:, ::-1].copy(), pairs)
    images.flags.writeable = False
    assert same(rank_pairs(images[::-1, ::-1], texts[:, ::-1], pairs), expected)


@pytest.mark.parametrize("screen", ["int8", "fp16", "bf16", "fp32"])
def test_short_vectors_with_hits(screen: str) -> None:
    """Products of float16 are subnormal or 0, and more of them are equal than there are hits."""
    images = np.full((5, 4), 2.0**-21, np.float32)
    texts = -np.full((40, 4), 2.0**-21, np.float32) * (1 + np.arange(40, dtype=np.float32)[:, None] / 64)
    none = np.zeros((0, 2), np.int64)
    check(rank_pairs(images, texts, none, top_k=3, screen=screen), exact_scores(images, texts), none, 3)


@pytest.mark.parametrize("screen", ["int8", "bf16"])
def test_one_dominating_coordinate_leaves_few_cells_to_score(screen: str) -> None:
    """A step of int16 by lengths alone would clip it, and prove nothing."""
    images, texts = generic(300, 64, 1), generic(600, 64, 2)
    images[:, 0], texts[:, 0] = 3 * np.sign(images[:, 0]), 3 * np.sign(texts[:, 0])
    pairs = sample_pairs(300, 600)
    ranks = rank_pairs(images, texts, pairs, screen=screen)
    check(ranks, exact_scores(images, texts), pairs, 10)
    assert ranks.rechecked < 0.15 * 300 * 600


def test_equal_rows_are_scored_once() -> None:
    images, texts = np.ones((2, 70, 8), np.float32)
    assert rank_pairs(images, texts, sample_pairs(70, 70)).rechecked <= 70 * 70
