"""The parts of a score matrix, ranked apart and merged in any order, have the ranks of the whole, bit for bit."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rank_cases import cone_vectors, draw_pairs, dyadic_vectors, generic_vectors, same, sample_pairs, vectors

from clipstore.errors import VectorError
from clipstore.ranking import (
    BadRowError,
    LastImages,
    Merge,
    Part,
    PartRanks,
    RankSettings,
    Side,
    divide,
    kernels,
    rank_pairs,
    rank_part,
    score_targets,
    scoring_digest,
)
from clipstore.ranking.blocks import Layout, prefetch

Array = NDArray[Any]


@st.composite
def divisions(draw: st.DrawFn, rows: int) -> list[range]:
    """The ranges between any cuts of `rows` rows; some are empty."""
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=4)))
    return [range(low, high) for low, high in zip([0, *cuts], [*cuts, rows], strict=True)]


def partition(data: st.DataObject, images: int, texts: int) -> list[Part]:
    """Parts that are the whole matrix together, in any order: each range of images has its own ranges of texts."""
    parts = [
        Part(images=rows, texts=columns)
        for rows in data.draw(divisions(images))
        for columns in data.draw(divisions(texts))
    ]
    return list(data.draw(st.permutations(parts)))


def rank_parts(sides: tuple[Array, Array], pairs: Array, parts: list[Part], settings: RankSettings) -> Merge:
    """The parts merged in their order; what would travel between machines is pickled."""
    targets = pickle.loads(pickle.dumps(score_targets(*sides, pairs, settings)))
    images, texts = Side(sides[0], "image"), Side(sides[1], "text")
    merge = Merge(targets, images=len(images), texts=len(texts), top_k=settings.top_k)
    last = LastImages()
    for part in parts:
        merge.add(pickle.loads(pickle.dumps(rank_part(images, texts, targets, part, settings, last=last))))
    return merge


@examples(500)
@given(
    data=st.data(),
    sides=st.one_of(dyadic_vectors(), generic_vectors(), cone_vectors()),
    top_k=st.sampled_from([0, 1, 3, 12]),
    screen=st.sampled_from(["auto", "bf16", "fp32", "fp64"]),
)
def test_any_partition_in_any_order_has_the_ranks_of_the_whole(
    data: st.DataObject, sides: tuple[Array, Array], top_k: int, screen: str
) -> None:
    pairs = draw_pairs(data, *sides)
    parts = partition(data, len(sides[0]), len(sides[1]))
    ranks = rank_parts(sides, pairs, parts, RankSettings(top_k=top_k, screen=screen)).ranks()
    whole = rank_pairs(*sides, pairs, top_k=top_k, screen=screen)
    assert same(ranks, whole)
    assert ranks.screen == whole.screen


def test_parts_of_many_blocks_have_the_ranks_of_the_whole() -> None:
    sides, pairs = vectors(700, 2600, 12), sample_pairs(700, 2600)
    parts = [
        Part(images=rows, texts=columns)
        for columns in (range(1111), range(1111, 2600))
        for rows in (range(699, 700), range(699))
    ]
    assert same(rank_parts(sides, pairs, parts, RankSettings()).ranks(), rank_pairs(*sides, pairs))


def test_a_part_counts_only_its_queries() -> None:
    """What travels between machines has an entry for each query in the part, and no other."""
    sides, pairs = vectors(60, 90, 5), sample_pairs(60, 90)
    part = Part(images=range(10, 30), texts=range(50, 55))
    result = part_ranks(sides, pairs, part)
    for direction, rows, column in ((result.image_to_text, range(10, 30), 0), (result.text_to_image, range(50, 55), 1)):
        count = int(np.isin(pairs[:, column], rows).sum())
        assert (direction.n_greater.shape, direction.n_equal.shape) == ((count,), (count,))
        assert direction.hits.shape == direction.hit_scores.shape == (len(rows), 10)
    assert set(result.image_to_text.hits.ravel().tolist()) == {-1, *range(50, 55)}


def part_ranks(sides: tuple[Array, Array], pairs: Array, part: Part) -> PartRanks:
    settings = RankSettings()
    targets = score_targets(*sides, pairs, settings)
    return rank_part(Side(sides[0], "image"), Side(sides[1], "text"), targets, part, settings)


def test_a_part_reads_its_rows_only_and_names_a_bad_one_by_its_row_among_all() -> None:
    images, texts = vectors(40, 50, 5)
    texts[33, 2] = np.nan
    pairs = np.array([[3, 4]])
    part_ranks((images, texts), pairs, Part(images=range(40), texts=range(33)))
    with pytest.raises(BadRowError) as caught:
        part_ranks((images, texts), pairs, Part(images=range(40), texts=range(30, 50)))
    assert (caught.value.side, caught.value.row) == ("text", 33)
    travelled = pickle.loads(pickle.dumps(caught.value))
    assert (travelled.side, travelled.row, str(travelled)) == ("text", 33, str(caught.value))


def test_a_part_that_is_missing_or_ranked_twice_is_an_error() -> None:
    sides, pairs = vectors(20, 30, 5), sample_pairs(20, 30)
    first, second = (Part(images=range(20), texts=rows) for rows in (range(11), range(11, 30)))
    with pytest.raises(VectorError, match="220 of 600"):
        rank_parts(sides, pairs, [first], RankSettings()).ranks()
    with pytest.raises(VectorError, match="twice"):
        rank_parts(sides, pairs, [first, second, replace(first)], RankSettings())


@pytest.mark.parametrize(
    ("images", "texts", "count", "grid"),
    [
        (40_504, 202_654, 8, (1, 8)),
        (200_000, 40_000, 8, (8, 1)),
        (100_000, 100_000, 16, (4, 4)),
        (10, 20, 8, (1, 1)),
        (0, 20, 8, (1, 1)),
        (2**20, 2**20, 8, (8, 8)),  # a part has at most 2**34 scores
    ],
)
def test_parts_cover_the_matrix_once(images: int, texts: int, count: int, grid: tuple[int, int]) -> None:
    parts = divide(images, texts, count)
    rows, columns = dict.fromkeys(part.images for part in parts), dict.fromkeys(part.texts for part in parts)
    assert (len(rows), len(columns)) == grid
    assert len(parts) == len(set(parts)) == len(rows) * len(columns)
    for ranges, size in ((list(rows), images), (list(columns), texts)):
        assert [row for part in ranges for row in (part.start, part.stop)] == [
            0, *(end for part in ranges[:-1] for end in (part.stop, part.stop)), size
        ]  # fmt: skip


def test_results_that_may_not_be_written_are_merged() -> None:
    """Ray's results are read-only."""
    sides, pairs = vectors(30, 40, 5), sample_pairs(30, 40)
    settings = RankSettings()
    targets = score_targets(*sides, pairs, settings)
    merge = Merge(targets, images=30, texts=40, top_k=10)
    for part in (Part(images=range(30), texts=rows) for rows in (range(11), range(11, 40))):
        result = rank_part(Side(sides[0], "image"), Side(sides[1], "text"), targets, part, settings)
        for direction in (result.image_to_text, result.text_to_image):
            for array in (direction.n_greater, direction.n_equal, direction.hits, direction.hit_scores):
                array.flags.writeable = False
        merge.add(result)
    assert same(merge.ranks(), rank_pairs(*sides, pairs))


@pytest.mark.parametrize("width", [3, 512])
def test_the_scoring_digest_depends_on_the_order_of_the_sums(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = scoring_digest(width)
    assert scoring_digest(width) == digest

    def in_reverse(left: Array, rows: Array, right: Array, columns: Array, scores: Array) -> None:
        products = left[rows].astype(np.float64) * right[columns]
        scores[:] = [sum(row[::-1].tolist()) for row in products]

    monkeypatch.setattr(kernels, "score_cells", in_reverse)
    assert scoring_digest(width) != digest


def test_images_are_read_once_for_parts_with_the_same_images() -> None:
    class Reads:
        """Rows that note what is read."""

        def __init__(self, values: Array) -> None:
            self.values, self.shape, self.dtype, self.spans = values, values.shape, values.dtype, list[slice]()

        def __getitem__(self, rows: slice) -> Array:
            self.spans.append(rows)
            return self.values[rows]

    (left, right), pairs, last = vectors(30, 40, 5), sample_pairs(30, 40), LastImages()
    settings, images = RankSettings(), Reads(left)
    targets = score_targets(left, right, pairs, settings)
    for part in [
        Part(images=rows, texts=columns) for rows in (range(9), range(9, 30)) for columns in (range(7), range(7, 40))
    ]:
        rank_part(Side(images, "image"), Side(right, "text"), targets, part, settings, last=last)
    assert images.spans == [slice(0, 9), slice(9, 30)]


def test_several_threads_load_spans_in_order() -> None:
    loaded = list(prefetch(lambda span: span * span, range(20), threads=3))
    assert loaded == [span * span for span in range(20)]


def test_a_failed_load_is_raised_in_its_place() -> None:
    results = prefetch(lambda span: 1 / (3 - span), range(20), threads=3)
    assert [next(results) for _ in range(3)] == [1 / 3, 1 / 2, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_tiles_of_a_processor_grow_with_the_memory() -> None:
    """Of twice as many images as texts, where that suffices."""
    pairs = np.stack([np.arange(202_654) // 5, np.arange(202_654)], axis=1)
    plan = partial(
        Layout.plan, images=40_531, texts=202_654, pairs=pairs, width=512, precision=torch.int8, device="cpu", result=0
    )
    layouts = [plan(memory=2**20 * megabytes) for megabytes in (64, 128, 256, 512, 1024, 8192)]
    tiles = [layout.tile for layout in layouts]
    assert tiles == sorted(tiles)
    assert (1024, 1024) in tiles
    assert tiles[-1] == (2048, 1024)
    assert all(layout.images >= min(40_531, 8 * layout.tile[0]) for layout in layouts)
