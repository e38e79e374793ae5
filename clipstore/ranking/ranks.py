"""`rank_pairs`: both directions of every positive pair, and each row's best hits, from one pass over all scores.

A score is the float64 sum of the products of the stored values, and every score that decides anything comes from one
routine (`kernels.score_cells`). The pass itself runs in low precision, tile by tile: `bounds` proves for nearly every
cell on which side of each target its score lies, `kernels.screen` counts those, and the others are scored. So the
answer depends on no block size, thread, precision or device.

Images are held in blocks as large as the budget allows, nearly always all of them; for each, texts stream past, the
next block being read and prepared while this one is multiplied. Threads share the tiles out by image rows; two never
settle the same rows or columns at once. Only how many cells were scored again depends on their order, by the hits: the
better a query's hits so far, the fewer others are worth a look.
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
from clipstore.ranking.blocks import Layout, Rows, Side, read_ahead
from clipstore.ranking.bounds import Centre
from clipstore.ranking.tiles import Bands, DeviceScreen, Found, Screen

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Means = tuple[Doubles, Doubles]

_GROUPS = 4  # for each hit, of a tile's candidates: how many groups give its k best, nearly


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
    """Both directions.

    `screen` is the precision of the product; `rechecked` says how many of its scores were computed again in float64.
    """

    image_to_text: DirectionRanks
    text_to_image: DirectionRanks
    screen: str
    rechecked: int


def rank_pairs(  # noqa: PLR0913
    image_vectors: Rows,
    text_vectors: Rows,
    pairs: NDArray[np.integer[Any]],
    *,
    top_k: int = 10,
    memory: int | None = None,
    device: str = "cpu",
    screen: str = "auto",
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Ranks:
    """Rank each positive pair among all texts and among all images, exactly, and keep each row's best `top_k`.

    Args:
        image_vectors: (N, D), float16 or float32; ranked by the dot product of the values given. A zero vector
            scores 0.
        text_vectors: (M, D), likewise.
        pairs: (P, 2), integers: image row, text row. A row may stand in any number of pairs.
        top_k: how many hits to keep for each row; 0: none.
        memory: bytes that this may take, answer included; None: 2 GB.
        device: where the products run; the answer is the same everywhere.
        screen: the precision of the products, "bf16", "fp32" or "fp64"; "auto": the fastest that the device has.
        on_progress: told how many text rows are ranked, and of how many, counted again for each block of images.

    Raises:
        VectorError: shapes do not fit, a value is not finite, a pair names no row, or `memory` is too small.
    """
    _check(image_vectors, text_vectors, pairs, top_k)
    if screen not in ("auto", *bounds.PRECISIONS):
        message = f"no screen {screen!r}: choose auto, {', '.join(bounds.PRECISIONS)}"
        raise VectorError(message)
    name = bounds.best_precision(device) if screen == "auto" else screen
    if not bounds.trusted(name, device):
        message = f"products in {name} are not what they should be on this machine: leave the screen to choose itself"
        raise VectorError(message)
    wide: Ints = np.asarray(pairs, dtype=np.int64)
    images, texts = Side(image_vectors, "image"), Side(text_vectors, "text")
    layout = Layout.plan(
        images=len(images),
        texts=len(texts),
        width=image_vectors.shape[1],
        precision=bounds.PRECISIONS[name],
        device=device,
        answer=len(wide) * 64 + (len(images) + len(texts)) * (top_k * 16 + 32),
        memory=memory if memory is not None else 2 * 2**30,
    )
    scores, (mean, other) = _score_pairs(images, texts, wide, layout)
    run = _Run(
        layout=layout,
        precision=bounds.PRECISIONS[name],
        device=device,
        centre=Centre(
            own=torch.from_numpy(mean).to(device),
            other=torch.from_numpy(other).to(device),
            shift=float(scores.mean()) if len(scores) else 0.0,
            left=True,
        ),
        rows=_Direction(wide[:, 0], wide[:, 1], scores, len(images), top_k),
        columns=_Direction(wide[:, 1], wide[:, 0], scores, len(texts), top_k),
    )
    threads = torch.get_num_threads()
    try:
        rechecked = _Pass(run, threads).over(images, texts, on_progress)
    finally:
        torch.set_num_threads(threads)  # the pool's threads set it to 1 for each of their own
    return Ranks(image_to_text=run.rows.ranks(), text_to_image=run.columns.ranks(), screen=name, rechecked=rechecked)


class _Direction:
    """The running counts and hits of one direction."""

    def __init__(self, query: Ints, positive: Ints, score: Doubles, queries: int, top_k: int) -> None:
        self.query, self.positive, self.score = query, positive, score
        self.greater, self.equal = np.zeros((2, len(query)), dtype=np.int64)
        self.equal -= 1  # each positive will be found equal to itself
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
        """The pairs of these queries, (L, n): in layer l each query's pair number l, or -1 where it has fewer."""
        first, count = self._starts[ids], self._starts[ids + 1] - self._starts[ids]
        layers = np.full((int(count.max(initial=0)), len(ids)), -1, dtype=np.int64)
        for layer in range(len(layers)):
            there = count > layer
            layers[layer, there] = self._order[first[there] + layer]
        return layers

    def floor(self, ids: Ints) -> Doubles:
        """The score of these queries' last hit, (n,); infinity where none are asked for, -infinity where some lack."""
        if not self.hits.shape[1]:
            return np.full(len(ids), np.inf)
        last = self.hit_scores[ids, -1]
        return np.where(np.isnan(last), -np.inf, last)


class _Block:
    """Some rows of one side, prepared, in the order of their distance from the side's mean.

    Attributes:
        ids: each row's number among all, (n,).
        values: (n, D) float32.
        low, terms: as `bounds.prepare` has them.
        greatest: the greatest terms of each tile, (T, 6).
        tiles: the rows of each tile; locks: held while a tile's counts are settled.
        layers: the rows' pairs, (L, n); asked: their scores less kappa, NaN where there are none.
    """

    def __init__(self, values: NDArray[np.float32], start: int, run: _Run, *, left: bool) -> None:
        self.left = left
        centre = run.centre if left else run.centre.swapped()
        prepared = bounds.prepare(torch.from_numpy(values).to(run.device), centre, run.precision)
        order = torch.argsort(prepared.lengths, descending=True)
        places = order.cpu().numpy()
        self.values, self.ids = values[places], places + start
        self.low, self.terms = prepared.low[order], prepared.terms[order]
        size = run.layout.tile[0 if left else 1]
        self.tiles = [slice(at, min(at + size, len(values))) for at in range(0, len(values), size)]
        self.locks = [Lock() for _ in self.tiles]
        self.greatest = torch.stack([self.terms[tile].amax(dim=0) for tile in self.tiles])
        self.direction = run.rows if left else run.columns
        self.layers = self.direction.layers(self.ids)
        asked = np.full(self.layers.shape, np.nan)
        asked[self.layers >= 0] = self.direction.score[self.layers[self.layers >= 0]] - run.centre.shift
        self.asked = torch.from_numpy(asked).to(run.device)

    def settle(self, tile: int, bands: Bands, found: Found, scores: Doubles, other_ids: Ints) -> None:
        """Take what was found with one tile of these rows into their direction; `other_ids` are the candidates'."""
        to, part = self.direction, self.tiles[tile]
        at, others, sure = (
            (found.rows, found.columns, found.row_sure) if self.left else (found.columns, found.rows, found.column_sure)
        )
        asked = (bands.low, bands.high, sure, self.layers[:, part], to.score)
        with self.locks[tile]:
            kernels.settle(at, found.keys, scores, *asked, to.greater, to.equal)
            if to.hits.shape[1]:
                cells = (at, self.ids[part], others, other_ids, found.keys, bands.floor, scores)
                kernels.keep_hits(*cells, to.hits, to.hit_scores)

    def bands(self, part: slice, others: torch.Tensor, shift: float) -> list[Bands]:
        """The bands of the rows `part` against tiles with the greatest terms `others` (T, 6)."""
        precision, margin = self.low.dtype, bounds.margins(self.terms[part], others)
        floor = torch.from_numpy(self.direction.floor(self.ids[part]) - shift).to(self.low.device)
        asked, each, top = self.asked[:, part], margin[:, None, :], bounds.magnitude(precision)
        low = bounds.surely_below(asked - each, precision).masked_fill(asked.isnan(), top)
        high = bounds.surely_above(asked + each, precision).masked_fill(asked.isnan(), top)
        least = bounds.surely_below(floor - margin, precision).masked_fill(floor == torch.inf, top)
        keys = (keys.cpu().numpy() for keys in (low, high, least))
        return [Bands(low=one, high=two, floor=three) for one, two, three in zip(*keys, strict=True)]

    def raised(self, bands: Bands, part: slice, products: torch.Tensor, others: torch.Tensor) -> Bands:
        """The bands of the rows `part`, where hits are not full yet, with the floor that a tile's products give.

        k candidates of the tile reach the k-th best of the bests of some groups of them, and so will the hits.
        """
        across = 1 if self.left else 0
        top_k, count = self.direction.hits.shape[1], products.shape[across]
        groups = min(_GROUPS * top_k, count)
        if groups < top_k or not top_k or bands.floor.min() > bounds.lowest(products.dtype):
            return bands
        size = count // groups
        some = products.narrow(across, 0, groups * size)
        if self.left:  # torch is slow along rows of bfloat16, and float32 holds them exactly
            some = (some.float() if products.dtype == torch.bfloat16 else some).contiguous()
        shape = (len(some), groups, size) if self.left else (groups, size, some.shape[1])
        best = some.view(shape).amax(dim=across + 1)
        least = bounds.least(best.topk(top_k, dim=across).values.select(across, -1).to(products.dtype))
        floor = bounds.surely_below(least - 2 * bounds.margins(self.terms[part], others[None])[0], products.dtype)
        return replace(bands, floor=np.maximum(bands.floor, floor.cpu().numpy()))


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What a run of `rank_pairs` works with."""

    layout: Layout
    precision: torch.dtype
    device: str
    centre: Centre
    rows: _Direction
    columns: _Direction


class _Pass:
    """All tiles of two sides, shared out among threads."""

    def __init__(self, run: _Run, threads: int) -> None:
        self._run, self._threads = run, threads
        on_cpu = torch.device(run.device).type == "cpu"
        self._screen = Screen(run.layout.tile, run.precision) if on_cpu else DeviceScreen()

    def over(self, images: Side, texts: Side, on_progress: Callable[[int, int], None]) -> int:
        """Settle every tile; how many cells were scored again."""
        rechecked, done = 0, 0
        layout = self._run.layout
        # The first blocks are small: what the hits are worth a look follows from the blocks before.
        image_spans, text_spans = images.spans(layout.images), texts.spans(layout.texts, layout.tile[1])
        with ThreadPoolExecutor(self._threads, "clipstore-rank", torch.set_num_threads, (1,)) as pool:
            for low, high in image_spans:
                left = _Block(images.read(low, high), low, self._run, left=True)
                working: list[Future[int]] = []
                load = partial(self._load, texts)
                for span, right in zip(text_spans, read_ahead(load, text_spans), strict=True):
                    started = [pool.submit(self._settle_rows, left, right, tile) for tile in range(len(left.tiles))]
                    rechecked += sum(future.result() for future in working)
                    working = started
                    done += span[1] - span[0]
                    on_progress(done, len(texts) * len(image_spans))
                rechecked += sum(future.result() for future in working)
        return rechecked

    def _load(self, texts: Side, span: tuple[int, int]) -> _Block:
        return _Block(texts.read(*span), span[0], self._run, left=False)

    def _settle_rows(self, left: _Block, right: _Block, row_tile: int) -> int:
        """Settle a tile of images with all tiles of a block of texts; how many cells were scored again."""
        shift = self._run.centre.shift
        part = left.tiles[row_tile]
        row_bands = left.bands(part, right.greatest, shift)
        (column_bands,) = right.bands(slice(None), left.greatest[row_tile : row_tile + 1], shift)
        return sum(
            self._settle(left, right, row_tile, tile, row_bands[tile], column_bands.part(right.tiles[tile]))
            for tile in range(len(right.tiles))
        )

    def _settle(self, left: _Block, right: _Block, row_tile: int, column_tile: int, rows: Bands, columns: Bands) -> int:
        row_part, column_part = left.tiles[row_tile], right.tiles[column_tile]
        product = self._screen.product(left.low[row_part], right.low[column_part])
        rows = left.raised(rows, row_part, product, right.greatest[column_tile])
        columns = right.raised(columns, column_part, product, left.greatest[row_tile])
        found = self._screen(product, rows, columns)
        scores = np.empty(len(found.keys))
        kernels.score_cells(left.values[row_part], found.rows, right.values[column_part], found.columns, scores)
        left.settle(row_tile, rows, found, scores, right.ids[column_part])
        right.settle(column_tile, columns, found, scores, left.ids[row_part])
        return len(scores)


def _score_pairs(images: Side, texts: Side, pairs: Ints, layout: Layout) -> tuple[Doubles, Means]:
    """The score of every pair, and the means of the vectors that stand in pairs, from the blocks where pairs lie."""
    scores = np.empty(len(pairs))
    total, rows_read = np.zeros((2, images.width)), np.zeros(2)
    tile = pairs // np.array([layout.texts, layout.texts])
    order = np.lexsort((tile[:, 1], tile[:, 0]))
    starts = np.flatnonzero(np.diff(tile[order], axis=0, prepend=-1).any(axis=1))
    for part in np.split(order, starts[1:]) if len(pairs) else []:
        own = pairs[part].astype(np.int32)
        (low_i, low_t), (high_i, high_t) = own.min(axis=0), own.max(axis=0) + 1
        left, right = images.read(low_i, high_i), texts.read(low_t, high_t)
        found = np.empty(len(own))
        kernels.score_cells(left, own[:, 0] - low_i, right, own[:, 1] - low_t, found)
        scores[part] = found
        total += [left.sum(axis=0, dtype=np.float64), right.sum(axis=0, dtype=np.float64)]
        rows_read += [len(left), len(right)]
    mean, other = total / np.maximum(rows_read, 1)[:, None]
    return scores, (mean, other)


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
    sizes = (images.shape[0], texts.shape[0])
    outside = ((pairs < 0) | (pairs >= np.array(sizes))).any(axis=1)
    if outside.any():
        message = f"pair {pairs[outside][0].tolist()} names no row: there are {sizes[0]} images and {sizes[1]} texts"
        raise VectorError(message)
    if top_k < 0:
        message = f"top_k must not be negative, not {top_k}"
        raise VectorError(message)
