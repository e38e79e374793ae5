"""Rank a part of the score matrix: some image rows against some text rows.

The counts of the parts of a matrix add up to those of the whole, and its best hits are among theirs (`merge`).

Images are in memory in blocks as large as the budget allows, nearly always in one; for each, texts are streamed, and
the next block is read and prepared while this one is ranked. Threads share the tiles by image rows. Rows and columns of
a tile are updated under its lock.

Hits are scored late. Each tile raises the floor of its queries, by what its candidates score at least; cells that can
reach it are collected. When all tiles of a block of texts have been screened, few of them are left to be scored. So
only the number of scored cells depends on the order of the tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.device import unallocated_memory
from clipstore.errors import VectorError
from clipstore.ranking import bounds, kernels
from clipstore.ranking.bands import KeyScale, PossibleHits, joined_hits
from clipstore.ranking.blocks import POSSIBLE_SHARE, Layout, Side, prefetch, screen_threads, spans
from clipstore.ranking.bounds import Centre
from clipstore.ranking.calibration import fastest_precision
from clipstore.ranking.device_copies import CopyStream
from clipstore.ranking.fused import FusedScreen
from clipstore.ranking.fused_check import fused_works
from clipstore.ranking.integers import WIDEST
from clipstore.ranking.prepared import Block, Direction, LastImages, PreparedRows, State
from clipstore.ranking.targets import Targets
from clipstore.ranking.tiles import CpuScreen, DeviceScreen, TileSide, key_scale

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_SLICE = 2**14  # possible hits scored at once: little memory, also where all cells tie
_LEAST, _MOST = 2**20, 2**34  # scores of a part: about a tile, and a minute of one core


_Screening = tuple[Block, list[Future[tuple[PossibleHits, int]]]]  # a block of texts, and the tiles of images


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the score matrix: rows of images and rows of texts, each a range with step 1."""

    images: range
    texts: range

    @property
    def cells(self) -> int:
        """The number of its scores."""
        return len(self.images) * len(self.texts)


def divide(images: int, texts: int, count: int) -> list[Part]:
    """Divide a matrix into about `count` parts, or as many as keep a part within _LEAST and _MOST scores.

    Of the grids with that many parts, the one in which the fewest rows are read.
    """
    cells = images * texts
    count = max(1, min(count, cells // _LEAST), -(-cells // _MOST))
    grids = [(rows, -(-count // rows)) for rows in range(1, count + 1)]
    rows, columns = min(grids, key=lambda grid: grid[1] * images + grid[0] * texts)
    return [Part(images=left, texts=right) for left in _ranges(images, rows) for right in _ranges(texts, columns)]


def _ranges(size: int, count: int) -> list[range]:
    """`count` ranges of nearly equal length, one after another."""
    ends = [size * number // count for number in range(count + 1)]
    return [range(low, high) for low, high in pairwise(ends)]


@dataclass(frozen=True, kw_only=True, eq=False)
class PartDirection:
    """The counts and hits of a part in one direction, among the candidates in the part.

    Attributes:
        queries: the rows of the queries in the part.
        n_greater, n_equal: (p,) int64, of the pairs with these queries, in the order of all pairs. A positive in the
            part is counted as equal to itself.
        hits, hit_scores: (n, top_k), as in `DirectionRanks`; candidates are numbered among all rows.
    """

    queries: range
    n_greater: Ints
    n_equal: Ints
    hits: Ints
    hit_scores: Doubles


@dataclass(frozen=True, kw_only=True, eq=False)
class PartRanks:
    """The result of `rank_part`; `screen` and `rechecked` as in `Ranks`."""

    part: Part
    image_to_text: PartDirection
    text_to_image: PartDirection
    screen: str
    rechecked: int


@dataclass(frozen=True, kw_only=True)
class RankSettings:
    """How scores are ranked: the arguments of `rank_pairs` with these names."""

    top_k: int = 10
    memory: int | None = None
    device: str = "cpu"
    screen: str = "auto"

    def precision(self, width: int) -> str:
        """The precision of the products of vectors of a width on this machine.

        Raises:
            VectorError: it is unknown or not for this device, the machine's products fail the self-test, or the vectors
                are too wide for it.
        """
        if self.screen not in ("auto", *bounds.PRECISIONS):
            message = f"unknown screen {self.screen!r}: use auto, {', '.join(bounds.PRECISIONS)}"
            raise VectorError(message)
        if self.screen == "int8" and torch.device(self.device).type != "cpu":
            message = f"products in int8 are for CPUs, not for {self.device}: use the screen auto"
            raise VectorError(message)
        name = fastest_precision(self.device) if self.screen == "auto" else self.screen
        if name == "int8" and width > WIDEST:
            if self.screen != "auto":
                message = f"vectors of width {width} are too wide for products in int8: use the screen auto"
                raise VectorError(message)
            name = "fp32"
        if not bounds.trusted(name, self.device):
            message = f"products in {name} failed the accuracy self-test on this machine: use the screen auto"
            raise VectorError(message)
        return name

    def layout(self, part: Part, pairs: Ints, width: int) -> Layout:
        """The blocks of a part with these pairs (P, 2) of vectors of width `width`.

        Raises:
            VectorError: the memory is too small.
        """
        images, texts = len(part.images), len(part.texts)
        precision = bounds.PRECISIONS[self.precision(width)]
        budget, free = self.memory if self.memory is not None else 2 * 2**30, unallocated_memory(self.device)
        try:
            return Layout.plan(
                images=images,
                texts=texts,
                width=width,
                precision=precision,
                device=self.device,
                result=len(pairs) * 96 + (images + texts) * (self.top_k * 32 + 32),
                pairs=pairs,
                memory=int(min(budget, free)),
            )
        except VectorError as error:
            if free >= budget:
                raise
            message = f"{error} (free on {self.device}: end other programs there, or use --device cpu)"
            raise VectorError(message) from error


def rank_part(
    images: Side,
    texts: Side,
    targets: Targets,
    part: Part,
    settings: RankSettings,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    last: LastImages | None = None,
) -> PartRanks:
    """Rank the pairs among the candidates of a part, exactly, and find its best hits.

    Args:
        images: all rows; only those of the part are read.
        texts: likewise.
        targets: all pairs.
        part: rows of `images` and of `texts`.
        settings: as in `rank_pairs`; the memory includes the result.
        on_progress: see `rank_pairs`.
        last: given to one call after another, for parts of one matrix with equal targets and settings, it keeps the
            prepared images in memory, so that the next part with the same images need not read them.

    Raises:
        VectorError: a vector of the part is not finite, or the memory is too small.
    """
    name = settings.precision(images.width)
    state = State(
        layout=settings.layout(part, targets.pairs, images.width),
        precision=bounds.PRECISIONS[name],
        device=settings.device,
        centre=Centre(
            mean=torch.tensor(targets.image_mean, device=settings.device),
            other_mean=torch.tensor(targets.text_mean, device=settings.device),
            shift=targets.shift,
            left=True,
        ),
        rows=Direction(part.images, targets.pairs[:, 0], targets.scores, settings.top_k),
        columns=Direction(part.texts, targets.pairs[:, 1], targets.scores, settings.top_k),
    )
    threads = torch.get_num_threads()
    try:
        with bounds.accumulation_in_float32():
            rechecked = _Pass(state, last or LastImages()).rank(images, texts, on_progress)
    except torch.OutOfMemoryError as error:
        message = f"{settings.device} ran out of memory: use a smaller --memory, or --device cpu"
        raise VectorError(message) from error
    finally:
        torch.set_num_threads(threads)  # the threads of the pool set it to 1
    return PartRanks(
        part=part,
        image_to_text=_result(state.rows),
        text_to_image=_result(state.columns),
        screen=name,
        rechecked=rechecked,
    )


def _result(direction: Direction) -> PartDirection:
    return PartDirection(
        queries=direction.queries,
        n_greater=direction.greater,
        n_equal=direction.equal,
        hits=direction.hits,
        hit_scores=direction.hit_scores,
    )


class _Pass:
    """The pass over all tiles of a part, shared among threads."""

    def __init__(self, state: State, last: LastImages) -> None:
        self._state, self._last = state, last
        top_k = state.rows.hits.shape[1]
        self._copies, self._key_precision = CopyStream(state.device), state.precision
        self._screen: CpuScreen | DeviceScreen | FusedScreen
        if state.on_cpu:
            self._screen = CpuScreen(state.layout.tile, state.precision, top_k)
        elif fused_works(state.precision, state.device):
            self._screen, self._key_precision = FusedScreen(top_k, state.centre.shift, state.device), torch.float32
        else:
            self._screen = DeviceScreen(top_k)

    def rank(self, images: Side, texts: Side, on_progress: Callable[[int, int], None]) -> int:
        """Rank every tile; the number of rescored cells."""
        rechecked, done = 0, 0
        image_spans = spans(self._state.rows.queries, self._state.layout.images)
        total = len(self._state.columns.queries) * len(image_spans)

        def on_texts(ranked: int) -> None:
            nonlocal done
            done += ranked
            on_progress(done, total)

        threads = screen_threads(self._state.device)
        with ThreadPoolExecutor(threads, "clipstore-rank", torch.set_num_threads, (1,)) as pool:
            for span in image_spans:
                # No variable keeps the block of images: it is freed before the next one is read.
                rechecked += self._rank_images(
                    pool, Block(self._last.rows(images, span, self._state), self._state, left=True), texts, on_texts
                )
        return rechecked

    def _rank_images(self, pool: ThreadPoolExecutor, left: Block, texts: Side, on_texts: Callable[[int], None]) -> int:
        """Rank a block of images and all texts; the number of rescored cells."""
        settled: list[Future[int]] = []
        before: _Screening | None = None
        # The first blocks are small: until their tiles have raised the floors of images, many cells can be hits.
        text_spans = spans(self._state.columns.queries, self._state.layout.texts, self._state.layout.tile[1])
        for (low, high), right in zip(text_spans, prefetch(partial(self._load, texts), text_spans), strict=True):
            screen = partial(self._screen_row_tile, left, right, key_scale(left.rows, right.rows, self._key_precision))
            started = [pool.submit(screen, tile) for tile in range(len(left.rows.tiles))]
            settled += self._settle(pool, left, before)
            before = right, started
            on_texts(high - low)
        settled += self._settle(pool, left, before)
        left.finish()
        return sum(future.result() for future in settled)

    def _load(self, texts: Side, span: tuple[int, int]) -> Block:
        values = texts.read(*span)
        with self._copies.preparing():
            rows = PreparedRows(values, span[0], self._state, left=False)
        return Block(rows, self._state, left=False)

    def _screen_row_tile(self, left: Block, right: Block, scale: KeyScale, row_tile: int) -> tuple[PossibleHits, int]:
        """Count in a tile of images and all tiles of a block of texts; the possible hits, and the number of scores."""
        part = left.rows.tiles[row_tile]
        possible: list[PossibleHits] = []
        rescored, room = 0, (part.stop - part.start) * len(right.queries) // POSSIBLE_SHARE
        for tile, column_part in enumerate(right.rows.tiles):
            rows, columns = left.bands(row_tile, right.rows, tile, scale), right.bands(tile, left.rows, row_tile, scale)
            cells = self._screen(
                TileSide(rows=left.rows, part=part, bands=rows),
                TileSide(rows=right.rows, part=column_part, bands=columns),
                scale,
            )
            scores = _scores(left.rows.values[part], cells.rows, right.rows.values[column_part], cells.columns)
            rescored += len(scores)
            left.count(row_tile, rows, cells, scores)
            right.count(tile, columns, cells, scores)
            if not self._state.rows.hits.shape[1]:
                continue
            left.raise_floors(row_tile, cells.hits.rows, cells.least)
            right.raise_floors(tile, cells.hits.columns, cells.least)
            less_kappa = scores - self._state.centre.shift
            left.raise_floors(row_tile, cells.rows, less_kappa)
            right.raise_floors(tile, cells.columns, less_kappa)
            _insert_hits(left, right, cells.rows + part.start, cells.columns + column_part.start, scores)
            possible.append(cells.hits.moved(part.start, column_part.start))
            if sum(map(len, possible)) > room:
                rescored += sum(_insert_possible_hits(left, right, hits) for hits in possible)
                possible = []
        return joined_hits(possible), rescored

    def _settle(self, pool: ThreadPoolExecutor, left: Block, screening: _Screening | None) -> list[Future[int]]:
        """Wait until a block has been screened, and start to insert its hits; the numbers of scores."""
        if screening is None:
            return []
        right, tiles = screening

        def insert(hits: PossibleHits, rescored: int) -> int:
            return rescored + _insert_possible_hits(left, right, hits)

        inserting = [pool.submit(insert, *tile.result()) for tile in tiles]
        right.finish()
        return inserting


def _insert_possible_hits(left: Block, right: Block, possible: PossibleHits) -> int:
    """Score the cells that can be hits still, and insert them; their number."""
    rescored = 0
    for start in range(0, len(possible), _SLICE):
        hits = possible.part(slice(start, start + _SLICE))
        chosen = np.empty((2, len(hits)), dtype=np.int32)
        count = kernels.choose_possible(hits.rows, hits.columns, hits.most, left.floor, right.floor, chosen)
        rows, columns = chosen[:, :count]
        scores = _scores(left.rows.values, rows, right.rows.values, columns)
        _insert_hits(left, right, rows, columns, scores)
        rescored += count
    return rescored


def _insert_hits(
    left: Block, right: Block, rows: NDArray[np.int32], columns: NDArray[np.int32], scores: Doubles
) -> None:
    """Insert scored cells, given by their rows in both blocks, into the hits of those whose floor they reach."""
    left.insert_hits(rows, right.rows, columns, scores)
    right.insert_hits(columns, left.rows, rows, scores)


def _scores(
    left: NDArray[np.float32], rows: NDArray[np.int32], right: NDArray[np.float32], columns: NDArray[np.int32]
) -> Doubles:
    """The scores of cells, given by their rows in both sides, (c,)."""
    scores = np.empty(len(rows))
    kernels.score_cells(left, rows, right, columns, scores)
    return scores
