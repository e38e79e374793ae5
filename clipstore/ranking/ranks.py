"""`rank_pairs`: the ranks of every positive pair in both directions and each row's best hits, in one pass.

A score is the float64 sum of the products of the stored values, and every score that decides a rank is computed by one
routine (`kernels.score_cells`). The pass itself runs in low precision, tile by tile: `bounds` proves for nearly every
cell on which side of each target its score lies, `kernels.screen` counts these, and the others are scored. So the
result does not depend on block sizes, threads, precision or device.

Images are in memory in blocks as large as the budget allows, nearly always in one; for each, texts are streamed, and
the next block is read and prepared while this one is ranked. Threads share the tiles by image rows; two threads never
update the same rows or columns at once. Only the number of rescored cells depends on the order of the tiles: the better
a query's hits so far, the fewer other cells can be hits.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking import bounds, kernels
from clipstore.ranking.blocks import Layout, Side, VectorRows, prefetch
from clipstore.ranking.bounds import Centre
from clipstore.ranking.tiles import Bands, DeviceScreen, Screen, ScreenedTile

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Means = tuple[Doubles, Doubles]

_GROUPS = 4  # groups of a tile's candidates for each hit: their bests are nearly the k best candidates


@dataclass(frozen=True, kw_only=True)
class DirectionRanks:
    """The ranks of one direction.

    Attributes:
        query, positive: row numbers (P,), int64, in the order of the pairs.
        n_greater, n_equal: the numbers of other candidates with a greater and with an equal score, (P,) int64.
        score: the positive's score, (P,) float64.
        hits: the row numbers of each query's best candidates, (N, top_k) int64, best first, of equal scores the
            smaller row number first; -1 if there are fewer candidates.
        hit_scores: their scores, (N, top_k) float64; NaN if there are fewer.
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
    """The ranks of both directions.

    `screen` is the precision of the product; `rechecked` the number of scores that were recomputed in float64.
    """

    image_to_text: DirectionRanks
    text_to_image: DirectionRanks
    screen: str
    rechecked: int


def rank_pairs(  # noqa: PLR0913
    image_vectors: VectorRows,
    text_vectors: VectorRows,
    pairs: NDArray[np.integer[Any]],
    *,
    top_k: int = 10,
    memory: int | None = None,
    device: str = "cpu",
    screen: str = "auto",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Ranks:
    """Rank each positive pair among all texts and among all images, exactly, and find each row's best `top_k`.

    Args:
        image_vectors: (N, D), float16 or float32; ranked by the dot product of the values given. A zero vector
            scores 0.
        text_vectors: (M, D), likewise.
        pairs: (P, 2), integers: image row, text row. A row can be in any number of pairs.
        top_k: the number of hits of each row; 0: none.
        memory: budget in bytes, including the result; None: 2 GB.
        device: where the products run; the result is the same everywhere.
        screen: the precision of the products, "bf16", "fp32" or "fp64"; "auto": the fastest of the device.
        on_progress: called with the number of text rows ranked, for all blocks of images, and their total.

    Raises:
        VectorError: shapes do not match, a value is not finite, a pair has no such row, or `memory` is too small.
    """
    _check(image_vectors, text_vectors, pairs, top_k)
    if screen not in ("auto", *bounds.PRECISIONS):
        message = f"unknown screen {screen!r}: use auto, {', '.join(bounds.PRECISIONS)}"
        raise VectorError(message)
    name = bounds.screen_precision(device) if screen == "auto" else screen
    if not bounds.trusted(name, device):
        message = f"products in {name} failed the accuracy self-test on this machine: use the screen auto"
        raise VectorError(message)
    wide: Ints = np.asarray(pairs, dtype=np.int64)
    images, texts = Side(image_vectors, "image"), Side(text_vectors, "text")
    layout = Layout.plan(
        images=len(images),
        texts=len(texts),
        width=image_vectors.shape[1],
        precision=bounds.PRECISIONS[name],
        device=device,
        result=len(wide) * 64 + (len(images) + len(texts)) * (top_k * 16 + 32),
        memory=memory if memory is not None else 2 * 2**30,
    )
    scores, (image_mean, text_mean) = _score_pairs(images, texts, wide, layout)
    state = _State(
        layout=layout,
        precision=bounds.PRECISIONS[name],
        device=device,
        centre=Centre(
            mean=torch.from_numpy(image_mean).to(device),
            other_mean=torch.from_numpy(text_mean).to(device),
            shift=float(scores.mean()) if len(scores) else 0.0,
            left=True,
        ),
        rows=_Direction(wide[:, 0], wide[:, 1], scores, len(images), top_k),
        columns=_Direction(wide[:, 1], wide[:, 0], scores, len(texts), top_k),
    )
    threads = torch.get_num_threads()
    try:
        rechecked = _Pass(state, threads).rank(images, texts, on_progress)
    finally:
        torch.set_num_threads(threads)  # the threads of the pool set it to 1
    return Ranks(
        image_to_text=state.rows.ranks(), text_to_image=state.columns.ranks(), screen=name, rechecked=rechecked
    )


class _Direction:
    """The running counts and hits of one direction."""

    def __init__(self, query: Ints, positive: Ints, score: Doubles, queries: int, top_k: int) -> None:
        self.query, self.positive, self.score = query, positive, score
        self.greater, self.equal = np.zeros((2, len(query)), dtype=np.int64)
        self.equal -= 1  # each positive is counted as equal to itself
        self.hits = np.full((queries, top_k), -1, dtype=np.int64)
        self.hit_scores = np.full((queries, top_k), np.nan)
        self._order = np.argsort(query, kind="stable")
        self._starts = np.searchsorted(query[self._order], np.arange(queries + 1))

    def ranks(self) -> DirectionRanks:
        return DirectionRanks(
            query=self.query,
            positive=self.positive,
            n_greater=self.greater,
            n_equal=self.equal,
            score=self.score,
            hits=self.hits,
            hit_scores=self.hit_scores,
        )

    def layers(self, ids: Ints) -> Ints:
        """The pairs of some queries, (L, n): in layer l the pair number l of each query, or -1 if it has fewer."""
        first, count = self._starts[ids], self._starts[ids + 1] - self._starts[ids]
        layers = np.full((int(count.max(initial=0)), len(ids)), -1, dtype=np.int64)
        for layer in range(len(layers)):
            present = count > layer
            layers[layer, present] = self._order[first[present] + layer]
        return layers

    def floor(self, ids: Ints) -> Doubles:
        """The score of the last hit of some queries, (n,); infinity if top_k is 0, -infinity if hits are missing."""
        if not self.hits.shape[1]:
            return np.full(len(ids), np.inf)
        last = self.hit_scores[ids, -1]
        return np.where(np.isnan(last), -np.inf, last)


class _Block:
    """A block of rows of one side, prepared, in the order of their distance from the side's mean.

    Attributes:
        ids: the row numbers among all rows, (n,).
        values: (n, D) float32.
        low, terms: see `bounds.prepare`.
        greatest: the greatest terms of each tile, (T, 6).
        tiles: the rows of each tile; locks: held while a tile's counts are updated.
        layers: the pairs of the rows, (L, n); targets: their scores less kappa, NaN without a pair.
    """

    def __init__(self, values: NDArray[np.float32], start: int, state: _State, *, left: bool) -> None:
        self.left = left
        centre = state.centre if left else state.centre.swapped()
        prepared = bounds.prepare(torch.from_numpy(values).to(state.device), centre, state.precision)
        order = torch.argsort(prepared.lengths, descending=True)
        places = order.cpu().numpy()
        self.values, self.ids = values[places], places + start
        self.low, self.terms = prepared.low[order], prepared.terms[order]
        size = state.layout.tile[0 if left else 1]
        self.tiles = [slice(first, min(first + size, len(values))) for first in range(0, len(values), size)]
        self.locks = [Lock() for _ in self.tiles]
        self.greatest = torch.stack([self.terms[tile].amax(dim=0) for tile in self.tiles])
        self.direction = state.rows if left else state.columns
        self.layers = self.direction.layers(self.ids)
        targets = np.full(self.layers.shape, np.nan)
        targets[self.layers >= 0] = self.direction.score[self.layers[self.layers >= 0]] - state.centre.shift
        self.targets = torch.from_numpy(targets).to(state.device)

    def accumulate(self, tile: int, bands: Bands, cells: ScreenedTile, scores: Doubles, other_ids: Ints) -> None:
        """Add the counts and hits of a screened tile to the direction; `other_ids` are those of the candidates."""
        direction, part = self.direction, self.tiles[tile]
        query, other, sure = (
            (cells.rows, cells.columns, cells.row_sure) if self.left else (cells.columns, cells.rows, cells.column_sure)
        )
        targets = (bands.low, bands.high, sure, self.layers[:, part], direction.score)
        with self.locks[tile]:
            kernels.accumulate_counts(query, cells.keys, scores, *targets, direction.greater, direction.equal)
            if direction.hits.shape[1]:
                kernels.insert_hits(
                    query,
                    self.ids[part],
                    other,
                    other_ids,
                    cells.keys,
                    bands.floor,
                    scores,
                    direction.hits,
                    direction.hit_scores,
                )

    def bands(self, part: slice, others: torch.Tensor, shift: float) -> list[Bands]:
        """The bands of the rows `part` against tiles with the greatest terms `others` (T, 6)."""
        precision, margin = self.low.dtype, bounds.margins(self.terms[part], others)
        floor = torch.from_numpy(self.direction.floor(self.ids[part]) - shift).to(self.low.device)
        targets, margins, top = self.targets[:, part], margin[:, None, :], bounds.magnitude(precision)
        low = bounds.surely_below(targets - margins, precision).masked_fill(targets.isnan(), top)
        high = bounds.surely_above(targets + margins, precision).masked_fill(targets.isnan(), top)
        least = bounds.surely_below(floor - margin, precision).masked_fill(floor == torch.inf, top)
        keys = (keys.cpu().numpy() for keys in (low, high, least))
        return [Bands(low=low, high=high, floor=floor) for low, high, floor in zip(*keys, strict=True)]

    def raised(self, bands: Bands, part: slice, products: torch.Tensor, others: torch.Tensor) -> Bands:
        """The bands of the rows `part` with the floor that a tile's products imply, while the hits are not complete.

        At least k candidates of the tile reach the k-th best of the best products of disjoint groups, and so will the
        hits.
        """
        across = 1 if self.left else 0
        top_k, count = self.direction.hits.shape[1], products.shape[across]
        groups = min(_GROUPS * top_k, count)
        if groups < top_k or not top_k or bands.floor.min() > bounds.lowest(products.dtype):
            return bands
        size = count // groups
        grouped = products.narrow(across, 0, groups * size)
        if self.left:  # torch is slow along rows of bfloat16, and float32 represents them exactly
            grouped = (grouped.float() if products.dtype == torch.bfloat16 else grouped).contiguous()
        shape = (len(grouped), groups, size) if self.left else (groups, size, grouped.shape[1])
        best = grouped.view(shape).amax(dim=across + 1)
        least = bounds.least(best.topk(top_k, dim=across).values.select(across, -1).to(products.dtype))
        floor = bounds.surely_below(least - 2 * bounds.margins(self.terms[part], others[None])[0], products.dtype)
        return replace(bands, floor=np.maximum(bands.floor, floor.cpu().numpy()))


@dataclass(frozen=True, kw_only=True)
class _State:
    """The settings and the running results of one call of `rank_pairs`."""

    layout: Layout
    precision: torch.dtype
    device: str
    centre: Centre
    rows: _Direction
    columns: _Direction


class _Pass:
    """The pass over all tiles of two sides, shared among threads."""

    def __init__(self, state: _State, threads: int) -> None:
        self._state, self._threads = state, threads
        on_cpu = torch.device(state.device).type == "cpu"
        self._screen = Screen(state.layout.tile, state.precision) if on_cpu else DeviceScreen()

    def rank(self, images: Side, texts: Side, on_progress: Callable[[int, int], None]) -> int:
        """Rank every tile; the number of rescored cells."""
        rechecked, done = 0, 0
        layout = self._state.layout
        # The first blocks are small: the floor of the hits is that after the previous blocks.
        image_spans, text_spans = images.spans(layout.images), texts.spans(layout.texts, layout.tile[1])
        with ThreadPoolExecutor(self._threads, "clipstore-rank", torch.set_num_threads, (1,)) as pool:
            for low, high in image_spans:
                left = _Block(images.read(low, high), low, self._state, left=True)
                working: list[Future[int]] = []
                load = partial(self._load, texts)
                for span, right in zip(text_spans, prefetch(load, text_spans), strict=True):
                    started = [pool.submit(self._rank_row_tile, left, right, tile) for tile in range(len(left.tiles))]
                    rechecked += sum(future.result() for future in working)
                    working = started
                    done += span[1] - span[0]
                    on_progress(done, len(texts) * len(image_spans))
                rechecked += sum(future.result() for future in working)
        return rechecked

    def _load(self, texts: Side, span: tuple[int, int]) -> _Block:
        return _Block(texts.read(*span), span[0], self._state, left=False)

    def _rank_row_tile(self, left: _Block, right: _Block, row_tile: int) -> int:
        """Rank a tile of images with all tiles of a block of texts; the number of rescored cells."""
        shift = self._state.centre.shift
        part = left.tiles[row_tile]
        row_bands = left.bands(part, right.greatest, shift)
        (column_bands,) = right.bands(slice(None), left.greatest[row_tile : row_tile + 1], shift)
        return sum(
            self._rank_tile(left, right, row_tile, tile, row_bands[tile], column_bands.part(right.tiles[tile]))
            for tile in range(len(right.tiles))
        )

    def _rank_tile(
        self, left: _Block, right: _Block, row_tile: int, column_tile: int, rows: Bands, columns: Bands
    ) -> int:
        row_part, column_part = left.tiles[row_tile], right.tiles[column_tile]
        product = self._screen.product(left.low[row_part], right.low[column_part])
        rows = left.raised(rows, row_part, product, right.greatest[column_tile])
        columns = right.raised(columns, column_part, product, left.greatest[row_tile])
        cells = self._screen(product, rows, columns)
        scores = np.empty(len(cells.keys))
        kernels.score_cells(left.values[row_part], cells.rows, right.values[column_part], cells.columns, scores)
        left.accumulate(row_tile, rows, cells, scores, right.ids[column_part])
        right.accumulate(column_tile, columns, cells, scores, left.ids[row_part])
        return len(scores)


def _score_pairs(images: Side, texts: Side, pairs: Ints, layout: Layout) -> tuple[Doubles, Means]:
    """The score of every pair, and the means (D,) of image and text vectors, from the blocks that have pairs."""
    scores = np.empty(len(pairs))
    total, rows_read = np.zeros((2, images.width)), np.zeros(2)
    tile = pairs // np.array([layout.texts, layout.texts])
    order = np.lexsort((tile[:, 1], tile[:, 0]))
    starts = np.flatnonzero(np.diff(tile[order], axis=0, prepend=-1).any(axis=1))
    for part in np.split(order, starts[1:]) if len(pairs) else []:
        rows = pairs[part].astype(np.int32)
        (low_i, low_t), (high_i, high_t) = rows.min(axis=0), rows.max(axis=0) + 1
        left, right = images.read(low_i, high_i), texts.read(low_t, high_t)
        part_scores = np.empty(len(rows))
        kernels.score_cells(left, rows[:, 0] - low_i, right, rows[:, 1] - low_t, part_scores)
        scores[part] = part_scores
        total += [left.sum(axis=0, dtype=np.float64), right.sum(axis=0, dtype=np.float64)]
        rows_read += [len(left), len(right)]
    image_mean, text_mean = total / np.maximum(rows_read, 1)[:, None]
    return scores, (image_mean, text_mean)


def _check(images: VectorRows, texts: VectorRows, pairs: NDArray[Any], top_k: int) -> None:
    if len(images.shape) != 2 or len(texts.shape) != 2 or images.shape[1] != texts.shape[1]:
        message = f"vectors of shapes {images.shape} and {texts.shape}: both must be rows of one width"
        raise VectorError(message)
    if not {str(images.dtype), str(texts.dtype)} <= {"float16", "float32"}:
        message = f"vectors of {images.dtype} and {texts.dtype}: use float16 or float32"
        raise VectorError(message)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        message = f"pairs must be integers of shape (P, 2), not {pairs.dtype} of shape {pairs.shape}"
        raise VectorError(message)
    sizes = (images.shape[0], texts.shape[0])
    outside = ((pairs < 0) | (pairs >= np.array(sizes))).any(axis=1)
    if outside.any():
        message = f"pair {pairs[outside][0].tolist()} has no such row: there are {sizes[0]} images and {sizes[1]} texts"
        raise VectorError(message)
    if top_k < 0:
        message = f"top_k must not be negative, not {top_k}"
        raise VectorError(message)
