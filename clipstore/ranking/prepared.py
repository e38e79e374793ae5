"""What is in memory while a part of the score matrix is ranked: prepared blocks, and the running counts and hits."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.ranking import bounds, kernels
from clipstore.ranking.bands import Bands, KeyScale, ScreenedTile
from clipstore.ranking.blocks import Layout, Side
from clipstore.ranking.bounds import Centre
from clipstore.ranking.device_copies import copy_to
from clipstore.ranking.integers import centred_lengths, prepare_integers

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


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
        reached: (n, top_k), scores less kappa that as many candidates surely reach, descending; -infinity: none yet.
            Those of a block are updated when it is finished.
    """

    def __init__(self, queries: range, query: Ints, scores: Doubles, top_k: int) -> None:
        chosen = pairs_of(queries, query)
        self.queries, self.score = queries, scores[chosen]
        self.greater, self.equal = np.zeros((2, len(self.score)), dtype=np.int64)
        self.hits = np.full((len(queries), top_k), -1, dtype=np.int64)
        self.hit_scores = np.full((len(queries), top_k), np.nan)
        self.reached = np.full((len(queries), top_k), -np.inf)
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

    def targets(self, layers: Ints) -> Doubles:
        """The scores of the pairs of layers, (L, n); NaN without a pair."""
        return np.where(layers >= 0, self.score[layers], np.nan) if len(layers) else np.empty(layers.shape)


class Bound:
    """The bound of the error of products, by its terms for each row (n, T), and the greatest of them in each tile."""

    def __init__(self, terms: torch.Tensor, tiles: list[slice]) -> None:
        self._terms = terms.cpu().numpy()
        self._greatest = [self._terms[tile].max(axis=0) for tile in tiles]

    def margins(self, part: slice, other: Bound, tile: int) -> Doubles:
        """The bounds of some rows, (n,), in a tile of the other side."""
        return np.asarray(kernels.sum_terms(self._terms[part], other._greatest[tile]))


class PreparedRows:
    """A block of rows of one side, ready for products.

    They are in the order of their distance from the side's mean, those last whose error in int8 is much greater.

    Attributes:
        ids: the row numbers among all rows of the side, (n,).
        values: (n, D) float32.
        low, terms: the rows in the precision of the products, and the terms of their bound: see `bounds.prepare` and
            `integers.prepare_integers`.
        unit: the factor of `low`.
        bound, fine_bound: the bounds of the errors of the products, and of those of the integers in int16.
        on_device: the values on the device of the products.
        integers: the rows as integers, on a CPU; None with products that prove more than those of int16.
        tiles: the rows of each tile.
        fine_step: the step of the integers in int16.
    """

    def __init__(self, values: NDArray[np.float32], start: int, state: State, *, left: bool) -> None:
        """Prepare rows (n, D) from row `start` on; they are reordered in place."""
        centre = state.centre if left else state.centre.swapped()
        lengths = centred_lengths(values, centre)
        integers, is_last = None, np.zeros(len(values), dtype=np.bool_)
        if state.uses_integers:
            integers = prepare_integers(values, lengths, centre, in_int8=state.precision == torch.int8)
            is_last = integers.clipped
        order = np.lexsort((-lengths, is_last))
        kernels.reorder_rows(values, order)
        self.values, self.ids, ordinary = values, order + start, len(values) - int(is_last.sum())
        self.integers = integers.reordered(order) if integers else None
        self.tiles = _tiles(ordinary, len(values), state.layout.tile[0 if left else 1])
        if self.integers and self.integers.coarse:
            self.on_device, self.unit = torch.from_numpy(self.values), 1.0
            self.low, self.terms = torch.from_numpy(self.integers.coarse.values), self.integers.coarse.terms
        else:
            self.on_device = copy_to(state.device, self.values)
            prepared = bounds.prepare(self.on_device, centre, state.precision)
            self.low, self.terms, self.unit = prepared.low, prepared.terms, prepared.unit
        self.bound = Bound(self.terms, self.tiles)
        self.fine_step = self.integers.fine.step if self.integers else 1.0
        self.fine_bound = Bound(self.integers.fine.terms, self.tiles) if self.integers else None


def _tiles(ordinary: int, count: int, size: int) -> list[slice]:
    """Slices of at most `size` rows; the rows that are not ordinary have tiles of their own: their bounds are wide."""
    parts = [(0, ordinary), (ordinary, count)]
    return [slice(first, min(first + size, high)) for low, high in parts for first in range(low, high, size)]


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
    """A prepared block of rows with what a part counts for them.

    Attributes:
        rows: the prepared rows.
        queries: their row numbers among the queries of `direction`, (n,).
        locks: held while the counts or floors of a tile are updated.
        hits_lock: held while hits are inserted.
        reached: as in `direction`, (n, top_k), contiguous in the order of these rows: those of a tile stay in the
            cache.
        floor: the least score less kappa of a hit of each row, (n,); infinity if top_k is 0, -infinity: any score.
        pairs: of each tile.
    """

    def __init__(self, rows: PreparedRows, state: State, *, left: bool) -> None:
        self.rows, self.left, self._shift = rows, left, state.centre.shift
        self.locks, self.hits_lock = [Lock() for _ in rows.tiles], Lock()
        self.direction = state.rows if left else state.columns
        self.queries = rows.ids - self.direction.queries.start
        self.reached = self.direction.reached[self.queries]
        self.floor = self.reached[:, -1].copy() if self.reached.shape[1] else np.full(len(self.queries), np.inf)
        self.pairs = [TilePairs(self.direction, self.queries[tile], self._shift) for tile in rows.tiles]

    def bands(self, tile: int, other: PreparedRows, other_tile: int, scale: KeyScale) -> Bands:
        """The bands of the rows of a tile against a tile of the other side."""
        part = self.rows.tiles[tile]
        margin = self.rows.bound.margins(part, other.bound, other_tile)
        if self.rows.fine_bound and other.fine_bound:
            fine = self.rows.fine_bound.margins(part, other.fine_bound, other_tile)
        else:
            fine = np.full_like(margin, np.inf)
        return Bands.of(self.pairs[tile].targets, self.floor[part].copy(), margin, fine, scale)

    def count(self, tile: int, bands: Bands, cells: ScreenedTile, scores: Doubles) -> None:
        """Add the counts of a screened tile, with the scores of its cells, to those of its pairs."""
        query, sure = (cells.rows, cells.row_sure) if self.left else (cells.columns, cells.column_sure)
        pairs = self.pairs[tile]
        with self.locks[tile]:
            kernels.accumulate_counts(
                query, cells.keys, scores, bands.low, bands.high, sure, pairs.scores, pairs.greater, pairs.equal
            )

    def finish(self) -> None:
        """Add the counts of all tiles to those of the direction, and keep there what hits reach, once."""
        for pairs in self.pairs:
            pairs.add_counts(self.direction)
        self.direction.reached[self.queries] = self.reached

    def raise_floors(self, tile: int, query: NDArray[np.int32], least: Doubles) -> None:
        """Raise the floors of queries of a tile by what candidates score at least, (c,) each."""
        part = self.rows.tiles[tile]
        with self.locks[tile]:
            kernels.raise_floors(query, least, self.reached[part], self.floor[part])

    def insert_hits(
        self, query: NDArray[np.int32], items: PreparedRows, item: NDArray[np.int32], scores: Doubles
    ) -> None:
        """Insert scored candidates, given by their rows in `items`, into the hits of rows of this block, (c,) each.

        Those that do not reach the floor are left out.
        """
        direction = self.direction
        with self.hits_lock:
            kernels.insert_hits(
                *(query, item, scores, self._shift, self.floor, self.queries, items.ids),
                *(direction.hits, direction.hit_scores),
            )


class TilePairs:
    """The pairs of the rows of a tile, and their counts: the pair number l of each row is in layer l, (L, n) each.

    Attributes:
        scores, targets: the scores of the pairs, and these less kappa; NaN without a pair.
        greater, equal: the counts.
    """

    def __init__(self, direction: Direction, queries: Ints, shift: float) -> None:
        self._layers = direction.layers(queries)
        self.scores = direction.targets(self._layers)
        self.targets = self.scores - shift
        self.greater, self.equal = np.zeros((2, *self._layers.shape), dtype=np.int64)

    def add_counts(self, direction: Direction) -> None:
        """Add the counts to those of the direction."""
        present = self._layers >= 0
        pairs = self._layers[present]  # each pair once
        direction.greater[pairs] += self.greater[present]
        direction.equal[pairs] += self.equal[present]


@dataclass(frozen=True, kw_only=True)
class State:
    """The settings and the running results of one part."""

    layout: Layout
    precision: torch.dtype
    device: str
    centre: Centre
    rows: Direction
    columns: Direction

    @property
    def on_cpu(self) -> bool:
        """Whether products are computed on a CPU."""
        return torch.device(self.device).type == "cpu"

    @property
    def uses_integers(self) -> bool:
        """Whether products are of int8, or scores in int16 decide what they leave open: those in float32 prove more."""
        return self.on_cpu and self.precision in (torch.int8, torch.bfloat16, torch.float16)
