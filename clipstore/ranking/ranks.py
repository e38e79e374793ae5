"""`rank_pairs`: both directions of every positive pair from one pass over blocks of the score matrix.

A score is the float64 sum of the products of the stored values, taken in one fixed order (`canonical`), so equal
vectors have equal scores by construction. Blocks of scores come from a float32 matrix product, whose order of
summation nobody promises. With unit roundoff u and g(u) = n u / (1 - n u), any order of summing n products, fused
or not, lies within g(u) |a| |b| of the true dot product (Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., eq. 3.5, with Cauchy-Schwarz). So product and canonical score lie within (g(2^-24) + g(2^-53)) |a| |b| of
each other, and n 2^-126 more where products underflow to zero. Comparisons farther apart than that are sure; the
others, ties above all, are decided by the canonical scores. The answer therefore does not depend on block sizes,
threads or device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.errors import VectorError

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_IMAGE_BLOCK, _TEXT_BLOCK, _LEAST_BLOCK = 1024, 8192, 64  # rows; larger blocks are no faster
_BYTES_PER_SCORE = 16  # the block, its transpose, masks and their indices
_GATHER = 256  # pairs scored canonically at once: few enough to stay in the processor's cache
_CELLS = 2**16  # cells of a block looked at one by one at once
_MANY = 2**15  # so many of them at once are ties, most likely
_LONGEST = 1e18  # lengths whose products stay finite in float32


class Rows(Protocol):
    """Rows (N, D) of float16 or float32 that slice like an array: numpy arrays, and vectors read from shards."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of float16 or float32."""
        ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, kw_only=True)
class DirectionRanks:
    """The ranks of one direction.

    Attributes:
        query, positive: row numbers (P,), int64, in the order of the pairs.
        n_greater, n_equal: how many other candidates score above the positive, and like it, (P,) int64.
        score: the positive's score, (P,) float64.
        hits: the row numbers of each query's best candidates, (N, top_k) int64, best first, the smaller row number
            first among equals; -1 where there are fewer candidates.
        hit_scores: their scores, (N, top_k) float64; NaN where there are fewer.
    """

    query: Ints
    positive: Ints
    n_greater: Ints
    n_equal: Ints
    score: Doubles
    hits: Ints
    hit_scores: Doubles


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Both directions."""

    image_to_text: DirectionRanks
    text_to_image: DirectionRanks


def rank_pairs(
    image_vectors: Rows,
    text_vectors: Rows,
    pairs: NDArray[np.integer[Any]],
    *,
    top_k: int = 10,
    memory: int | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Ranks:
    """Rank each positive pair among all texts and among all images, exactly, and keep each row's best `top_k`.

    Args:
        image_vectors: (N, D), float16 or float32; ranked by the dot product of the values given. A zero vector
            scores 0.
        text_vectors: (M, D), likewise.
        pairs: (P, 2), integers: image row, text row. A row may stand in any number of pairs.
        top_k: how many hits to keep for each row; 0: none.
        memory: bytes that the blocks may take; None: 512 MB.
        device: where the products run; the answer is the same everywhere.
        on_progress: told after each block how many image rows are ranked, and of how many.

    Raises:
        VectorError: shapes do not fit, a value is not finite, a pair names no row, or `memory` is too small.
    """
    _check(image_vectors, text_vectors, pairs, top_k)
    wide: Ints = np.asarray(pairs, dtype=np.int64)
    images, texts = _Side(image_vectors, "image"), _Side(text_vectors, "text")
    rows = _block_rows(image_vectors.shape[1], memory if memory is not None else 2**29)
    scores = _pair_scores(images, texts, wide, rows)
    forward = _Direction(wide[:, 0], wide[:, 1], scores, len(images), top_k)
    backward = _Direction(wide[:, 1], wide[:, 0], scores, len(texts), top_k)
    for image_block in images.blocks(rows[0]):
        on_device = torch.from_numpy(image_block.values).to(device)
        for text_block in texts.blocks(rows[1]):
            product = (on_device @ torch.from_numpy(text_block.values).to(device).T).cpu()
            forward.count(product.numpy(), image_block, text_block)
            backward.count(product.T.contiguous().numpy(), text_block, image_block)
        on_progress(image_block.start + len(image_block), len(images))
    return Ranks(image_to_text=forward.ranks(), text_to_image=backward.ranks())


def canonical(left: Floats, right: Floats) -> Doubles:
    """The score of each row pair of two (N, D) arrays: products (exact for float32 values), summed pairwise by numpy.

    One row's sum does not depend on the rows beside it.
    """
    return np.asarray(np.multiply(left, right, dtype=np.float64).sum(axis=1))


@dataclass(frozen=True)
class _Block:
    """Rows `start` to `start + len(values)` of one side, in float32, and their lengths in float64."""

    start: int
    values: Floats
    lengths: Doubles

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def first_equal(self) -> Ints:
        """For each row, the first row of the block with the same values."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(self.values)])


class _Side:
    """The vectors of one side, read block by block and checked on the way."""

    def __init__(self, rows: Rows, name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return self._rows.shape[0]

    def read(self, start: int, stop: int) -> _Block:
        """Rows `start` to `stop`; float16 becomes float32, which loses nothing."""
        values = np.ascontiguousarray(self._rows[start:stop], dtype=np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
        if not np.all(lengths <= _LONGEST):  # NaN compares false
            row = start + int(np.argmin(lengths <= _LONGEST))
            message = f"{self._name} vector {row} holds NaN, infinity or values past 1e18: embed or import it again"
            raise VectorError(message)
        return _Block(start, values, lengths)

    def blocks(self, rows: int) -> Iterator[_Block]:
        """All rows, `rows` at a time."""
        for start in range(0, len(self), rows):
            yield self.read(start, min(start + rows, len(self)))


class _Direction:
    """The running counts and hits of one direction."""

    def __init__(self, query: Ints, positive: Ints, score: Doubles, queries: int, top_k: int) -> None:
        self._query, self._positive, self._score = query, positive, score
        self._order = np.argsort(query, kind="stable")
        self._starts = np.searchsorted(query[self._order], np.arange(queries + 1))
        self._greater, self._equal = np.zeros((2, len(query)), dtype=np.int64)
        self._hits = np.full((queries, top_k), -1, dtype=np.int64)
        self._hit_scores = np.full((queries, top_k), np.nan)

    def ranks(self) -> DirectionRanks:
        return DirectionRanks(
            query=self._query,
            positive=self._positive,
            n_greater=self._greater,
            n_equal=self._equal,
            score=self._score,
            hits=self._hits,
            hit_scores=self._hit_scores,
        )

    def count(self, product: Floats, queries: _Block, candidates: _Block) -> None:
        """Take in a block of scores (queries, candidates)."""
        margin = _margin(queries, candidates)
        for pairs, rows in self._slots(queries):
            self._count_slot(product, margin, pairs, rows, queries, candidates)
        if self._hits.shape[1]:
            self._keep_hits(product, margin, queries, candidates)

    def _slots(self, queries: _Block) -> Iterator[tuple[Ints, Ints]]:
        """The pairs of a block's queries, at most one a query at a time: (pairs, their rows in the block)."""
        first = self._starts[queries.start : queries.start + len(queries)]
        count = self._starts[queries.start + 1 : queries.start + 1 + len(queries)] - first
        for slot in range(int(count.max(initial=0))):
            rows = np.flatnonzero(count > slot)
            yield self._order[first[rows] + slot], rows

    def _count_slot(
        self, product: Floats, margin: Doubles, pairs: Ints, rows: Ints, queries: _Block, candidates: _Block
    ) -> None:
        """Count the candidates above and like the positives of `pairs`, one pair a row of the product."""
        if len(rows) < len(product):
            product, margin = product[rows], margin[rows]
        score = self._score[pairs]
        above = _at_least(product, np.nextafter(_up(score + margin), np.float32(np.inf)))
        near = _at_least(product, _down(score - margin))
        self._greater[pairs] += _count(above)
        np.logical_xor(near, above, out=near)
        for at, column in _cells(near):
            other = column + candidates.start != self._positive[pairs[at]]
            some, column = at[other], column[other]  # noqa: PLW2901
            found = _score_each(queries, candidates, rows[some], column)
            np.add.at(self._greater, pairs[some], found > score[some])
            np.add.at(self._equal, pairs[some], found == score[some])

    def _keep_hits(self, product: Floats, margin: Doubles, queries: _Block, candidates: _Block) -> None:
        """Merge a block's best candidates into the best so far."""
        rows = slice(queries.start, queries.start + len(queries))
        least = self._hit_scores[rows, -1]
        if np.isnan(least).any():  # not full yet: what is worth a look follows from this block itself
            k = min(self._hits.shape[1], product.shape[1])
            least = torch.topk(torch.from_numpy(product), k, dim=1).values[:, -1].numpy() - margin
        for row, column in _cells(_at_least(product, _down(least - margin))):
            score = _score_each(queries, candidates, row, column)
            self._merge_hits(row + queries.start, column + candidates.start, score)

    def _merge_hits(self, query: Ints, item: Ints, score: Doubles) -> None:
        """Merge new hits, all of some queries at once, into the best so far."""
        queries = np.unique(query)
        old, place = np.nonzero(self._hits[queries] >= 0)
        query = np.concatenate([queries[old], query])
        item = np.concatenate([self._hits[queries[old], place], item])
        score = np.concatenate([self._hit_scores[queries[old], place], score])
        order = np.lexsort((item, -score, query))
        query, item, score = query[order], item[order], score[order]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        best = place < self._hits.shape[1]
        self._hits[query[best], place[best]] = item[best]
        self._hit_scores[query[best], place[best]] = score[best]


def _margin(queries: _Block, candidates: _Block) -> Doubles:
    """How far a product may lie from the canonical score, for each query: the bound of the module's docstring.

    Two roundings more than the sum has pay for those of score ± margin.
    """
    width = queries.values.shape[1]
    g = sum((width + 2) * u / (1 - (width + 2) * u) for u in (2.0**-24, 2.0**-53))
    return np.asarray(g * queries.lengths * candidates.lengths.max(initial=0.0) + width * 2.0**-126)


def _up(values: Doubles) -> Floats:
    """The least float32 not below each value."""
    rounded = values.astype(np.float32)
    return np.where(rounded < values, np.nextafter(rounded, np.float32(np.inf)), rounded)


def _down(values: Doubles) -> Floats:
    """The greatest float32 not above each value."""
    return -_up(-values)


def _at_least(product: Floats, bounds: Floats) -> NDArray[np.bool_]:
    """Where a row of the product reaches its bound. Rows are padded to whole 64-bit words, for `_count`."""
    rows, columns = product.shape
    mask = np.empty((rows, -(-columns // 8) * 8), dtype=np.bool_)
    mask[:, columns:] = False
    np.greater_equal(product, bounds[:, None], out=mask[:, :columns])
    return mask


def _count(mask: NDArray[np.bool_]) -> Ints:
    """How many are true in each row, eight at a time: a plain sum of booleans takes five times as long."""
    return np.asarray(np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64))


def _cells(mask: NDArray[np.bool_]) -> Iterator[tuple[Ints, Ints]]:
    """Rows and columns of what is true, in order: whole rows at a time, in groups of about `_CELLS`.

    Under ties everything may be true, and the indices of a whole block take many times its memory.
    """
    until = np.cumsum(_count(mask))
    start = 0
    while start < len(mask):
        before = until[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(until, before + _CELLS, side="right")))
        row, column = np.divmod(np.flatnonzero(mask[start:stop]), mask.shape[1])
        if len(row):
            yield row + start, column
        start = stop


def _score_each(left: _Block, right: _Block, rows: Ints, columns: Ints) -> Doubles:
    """The canonical score of each (row, column); where there are many, equal vectors are scored once."""
    if len(rows) > _MANY:
        pair = left.first_equal[rows] * len(right) + right.first_equal[columns]
        distinct, again = np.unique(pair, return_inverse=True)
        return _score_all(left.values, right.values, distinct // len(right), distinct % len(right))[again]
    return _score_all(left.values, right.values, rows, columns)


def _score_all(left: Floats, right: Floats, rows: Ints, columns: Ints) -> Doubles:
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _GATHER):
        part = slice(start, start + _GATHER)
        scores[part] = canonical(left[rows[part]], right[columns[part]])
    return scores


def _pair_scores(images: _Side, texts: _Side, pairs: Ints, rows: tuple[int, int]) -> Doubles:
    """The canonical score of every pair, from the blocks in which pairs lie alone."""
    scores = np.empty(len(pairs))
    tile = pairs // np.array(rows)
    order = np.lexsort((tile[:, 1], tile[:, 0]))
    starts = np.flatnonzero(np.diff(tile[order], axis=0, prepend=-1).any(axis=1))
    for part in np.split(order, starts[1:]) if len(pairs) else []:
        own = pairs[part]
        (low_i, low_t), (high_i, high_t) = own.min(axis=0), own.max(axis=0) + 1
        left, right = images.read(low_i, high_i), texts.read(low_t, high_t)
        scores[part] = _score_all(left.values, right.values, own[:, 0] - low_i, own[:, 1] - low_t)
    return scores


def _block_rows(width: int, memory: int) -> tuple[int, int]:
    """Rows of an image and of a text block that fit into `memory` bytes together.

    Raises:
        VectorError: not even the smallest blocks fit.
    """
    image, text = _IMAGE_BLOCK, _TEXT_BLOCK
    while (need := _bytes_needed(image, text, width)) > memory:
        if text <= _LEAST_BLOCK:
            message = f"{memory} bytes of memory are too few to rank vectors of width {width}: give at least {need}"
            raise VectorError(message)
        text = max(text // 2, _LEAST_BLOCK)
        image = min(image, text)
    return image, text


def _bytes_needed(image: int, text: int, width: int) -> int:
    """The scores of a block, its vectors as read and in float32, and what is looked at one by one."""
    return image * text * _BYTES_PER_SCORE + (image + text) * width * 8 + _GATHER * width * 36 + _CELLS * 100


def _check(images: Rows, texts: Rows, pairs: NDArray[Any], top_k: int) -> None:
    if len(images.shape) != 2 or len(texts.shape) != 2 or images.shape[1] != texts.shape[1]:
        message = f"vectors of shapes {images.shape} and {texts.shape}: both must be rows of the same width"
        raise VectorError(message)
    if not {str(images.dtype), str(texts.dtype)} <= {"float16", "float32"}:
        message = f"vectors of {images.dtype} and {texts.dtype}: give float16 or float32"
        raise VectorError(message)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        message = f"pairs must be integers of shape (P, 2), not {pairs.dtype} of shape {pairs.shape}"
        raise VectorError(message)
    bounds = (images.shape[0], texts.shape[0])
    outside = ((pairs < 0) | (pairs >= np.array(bounds))).any(axis=1)
    if outside.any():
        message = f"pair {pairs[outside][0].tolist()} names no row: there are {bounds[0]} images and {bounds[1]} texts"
        raise VectorError(message)
    if top_k < 0:
        message = f"top_k must not be negative, not {top_k}"
        raise VectorError(message)
