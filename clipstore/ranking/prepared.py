"""What is in memory while a part of the score matrix is ranked: prepared blocks, and the running counts and hits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.ranking import bounds, kernels
from clipstore.ranking.blocks import Layout, Side
from clipstore.ranking.bounds import Centre
from clipstore.ranking.tiles import Bands, ScreenedTile

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_GROUPS = 4  # groups of a tile's candidates for each hit: their bests are nearly the k best candidates


def pairs_of(queries: range, query: Ints) -> Ints:
    """The numbers of the pairs with the queries `query` (P,) that are among `queries`."""
    return np.flatnonzero((query >= queries.start) & (query < queries.stop))


class Direction:
    """The running counts and hits of some queries in one direction, which are numbered from 0 here.

    Attributes:
        queries: their row numbers among all rows of the side.
        score: the scores of the pairs of these queries, (p,), in the order of the pairs.
        greater, equal: the counts of these pairs, (p,).
        hits, hit_scores: (n, top_k).
    """

    def __init__(self, queries: range, query: Ints, scores: Doubles, top_k: int) -> None:
        chosen = pairs_of(queries, query)
        self.queries, self.score = queries, scores[chosen]
        self.greater, self.equal = np.zeros((2, len(self.score)), dtype=np.int64)
        self.hits = np.full((len(queries), top_k), -1, dtype=np.int64)
        self.hit_scores = np.full((len(queries), top_k), np.nan)
        local = query[chosen] - queries.start
        self._order = np.argsort(local, kind="stable")
        self._starts = np.searchsorted(local[self._order], np.arange(len(queries) + 1))

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


class PreparedRows:
    """A block of rows of one side, ready for products, in the order of their distance from the side's mean.

    Attributes:
        ids: the row numbers among all rows of the side, (n,).
        values: (n, D) float32.
        low, terms: see `bounds.prepare`.
        tiles: the rows of each tile.
        greatest: the greatest terms of each tile, (T, 6).
    """

    def __init__(self, values: NDArray[np.float32], start: int, state: State, *, left: bool) -> None:
        centre = state.centre if left else state.centre.swapped()
        prepared = bounds.prepare(torch.from_numpy(values).to(state.device), centre, state.precision)
        order = torch.argsort(prepared.lengths, descending=True)
        places = order.cpu().numpy()
        self.values, self.ids = values[places], places + start
        self.low, self.terms = prepared.low[order], prepared.terms[order]
        size = state.layout.tile[0 if left else 1]
        self.tiles = [slice(first, min(first + size, len(values))) for first in range(0, len(values), size)]
        self.greatest = torch.stack([self.terms[tile].amax(dim=0) for tile in self.tiles])


class LastImages:
    """The prepared images of the last part, for a following part of the same matrix with the same images."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._rows: PreparedRows | None = None

    def rows(self, images: Side, span: tuple[int, int], state: State) -> PreparedRows:
        """The prepared images (start, stop); they are read unless they are the last ones."""
        key = (span, state.layout.tile, state.precision)
        if self._rows is None or self._key != key:
            self._rows = None  # freed before others are read
            self._key, self._rows = key, PreparedRows(images.read(*span), span[0], state, left=True)
        return self._rows


class Block:
    """A prepared block of rows with what a part counts for them; the attributes of `PreparedRows`, and more.

    Attributes:
        queries: the row numbers among the queries of `direction`, (n,).
        locks: held while a tile's counts are updated.
        layers: the pairs of the rows, (L, n); targets: their scores less kappa, NaN without a pair.
    """

    def __init__(self, rows: PreparedRows, state: State, *, left: bool) -> None:
        self.left = left
        self.values, self.ids, self.low, self.terms = rows.values, rows.ids, rows.low, rows.terms
        self.tiles, self.greatest = rows.tiles, rows.greatest
        self.locks = [Lock() for _ in self.tiles]
        self.direction = state.rows if left else state.columns
        self.queries = self.ids - self.direction.queries.start
        self.layers = self.direction.layers(self.queries)
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
                    self.queries[part],
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
        floor = torch.from_numpy(self.direction.floor(self.queries[part]) - shift).to(self.low.device)
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
class State:
    """The settings and the running results of one part."""

    layout: Layout
    precision: torch.dtype
    device: str
    centre: Centre
    rows: Direction
    columns: Direction
