"""One tile of the score matrix: its product in low precision, the counts that it proves, and the undecided cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from threading import local
from typing import Any

import numpy as np
import torch

from clipstore.ranking import bounds, screening
from clipstore.ranking.bands import Bands, Keys, KeyScale, PossibleHits, ScreenedTile
from clipstore.ranking.integers import IntegerKeys
from clipstore.ranking.prepared import PreparedRows

_STRIP = 512  # rows


@dataclass(frozen=True, kw_only=True)
class TileSide:
    """One side of a tile: some prepared rows and their bands."""

    rows: PreparedRows
    part: slice
    bands: Bands

    @property
    def low(self) -> torch.Tensor:
        """(n, K), the rows in the precision of the product."""
        return self.rows.low[self.part]

    def queries(self, kind: np.dtype[np.signedinteger]) -> screening.Queries:
        """The arguments of the compiled loops, with room for the counts.

        Without integers fine scores have no values, and their margin is infinite: they decide nothing.
        """
        bands, integers = self.bands, self.rows.integers
        count = len(bands.floor)
        return screening.Queries(
            low=bands.low,
            high=bands.high,
            least=bands.least,
            sure=np.zeros(bands.low.shape, dtype=kind),
            targets=bands.targets,
            floor=bands.floor,
            margin=bands.fine_margin,
            rows=integers.fine.values[self.part] if integers else np.empty((count, 0), dtype=np.int16),
            offset=integers.offset[self.part] if integers else np.zeros(count),
        )


def key_scale(left: PreparedRows, right: PreparedRows, precision: torch.dtype) -> KeyScale:
    """How the products of two blocks, in a precision, become keys."""
    if left.integers and right.integers and left.integers.coarse and right.integers.coarse:
        return IntegerKeys.of(left.integers.coarse, left.integers.offset, right.integers.coarse, right.integers.offset)
    return bounds.FloatKeys(precision, left.unit * right.unit)


class CpuScreen(local):
    """Screens tiles on the CPU in compiled loops, with buffers for each thread.

    A tile is multiplied and screened strip by strip of its rows, so that the products stay in the processor's cache;
    while hits are missing, at once, because the keys of a whole tile raise the floors.
    """

    def __init__(self, tile: tuple[int, int], precision: torch.dtype, top_k: int, strip: int = _STRIP) -> None:
        size = tile[0] * tile[1]
        is_int8, self._top_k, self._strip = precision == torch.int8, top_k, strip
        self._product = torch.empty(size, dtype=torch.int32 if is_int8 else precision)
        self._keys = np.empty(size, dtype=np.int16) if is_int8 else bounds.bits(self._product).numpy()
        self._cells = screening.Cells.empty(size, self._keys.dtype)

    def __call__(self, left: TileSide, right: TileSide, scale: KeyScale) -> ScreenedTile:
        """Screen a tile; the result is valid until the next call."""
        size, row_bands, column_bands = len(left.low), left.bands, right.bands
        groups = row_bands.groups(len(right.low), self._top_k), column_bands.groups(size, self._top_k)
        products = partial(self._products, left, right, scale)
        if any(groups):
            bits, line_scale = products(slice(size))
            keys = self._keys[: bits.size].reshape(bits.shape)
            screening.set_keys(bits, line_scale, keys)
            row_bands = self._raised(screening.best_in_rows, keys, groups[0], row_bands, scale)
            column_bands = self._raised(screening.best_in_columns, keys, groups[1], column_bands, scale)
            keys_scale = line_scale._replace(magnitude=keys.dtype.type(0))  # the bits of floats are keys now
            strips = iter([(0, (bits, keys_scale))])
        else:
            strips = ((first, products(slice(first, first + self._strip))) for first in range(0, size, self._strip))
        kind = self._keys.dtype
        rows, columns = replace(left, bands=row_bands).queries(kind), replace(right, bands=column_bands).queries(kind)
        unit = left.rows.fine_step * right.rows.fine_step
        cells = self._cells
        cells.counts[:] = 0
        for first, (bits, line_scale) in strips:
            screening.screen(bits, first, line_scale, rows, columns, unit, cells)
        near, possible = cells.counts
        scores, margin = cells.hit_scores[:possible], row_bands.fine_margin[cells.hits[0, :possible]]
        return ScreenedTile(
            row_sure=rows.sure,
            column_sure=columns.sure,
            rows=cells.near[0, :near],
            columns=cells.near[1, :near],
            keys=cells.near_keys[:near],
            hits=PossibleHits(rows=cells.hits[0, :possible], columns=cells.hits[1, :possible], most=scores + margin),
            least=scores - margin,
        )

    def _products(
        self, left: TileSide, right: TileSide, scale: KeyScale, strip: slice
    ) -> tuple[Keys, screening.LineScale]:
        """The bits of the products of a strip of rows, (R, C), and how those of the tile become keys."""
        low = left.low[strip]
        product = self._product[: len(low) * len(right.low)].view(len(low), len(right.low))
        if isinstance(scale, IntegerKeys):
            bounds.int8_product(low, right.low, product)
            offsets = scale.row_offset[left.part], scale.column_offset[right.part]
            return product.numpy(), screening.LineScale(np.int16(0), *offsets, scale.shift)
        torch.mm(low, right.low.T, out=product)
        bits, none = bounds.bits(product).numpy(), np.empty(0, dtype=np.int32)
        return bits, screening.LineScale(bits.dtype.type(bounds.magnitude(product.dtype)), none, none, 0)

    def _raised(self, best_keys: Any, keys: Keys, groups: int, bands: Bands, scale: KeyScale) -> Bands:
        """The bands of one side with the floors that the products imply."""
        if not groups:
            return bands
        best = np.empty(len(bands.floor), dtype=keys.dtype)
        best_keys(keys, groups, self._top_k, best)
        return bands.raised(best, scale)


class DeviceScreen:
    """Screens tiles with torch's operations, on the device of the prepared rows."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k

    def __call__(self, left: TileSide, right: TileSide, scale: KeyScale) -> ScreenedTile:
        """Screen a tile."""
        keys = bounds.keys(left.low @ right.low.T)
        rows, columns = self._raised(keys, left.bands, 1, scale), self._raised(keys, right.bands, 0, scale)
        row_low, row_high, row_least, column_low, column_high, column_least = (
            torch.from_numpy(part).to(keys.device)
            for bands in (rows, columns)
            for part in (bands.low, bands.high, bands.least)
        )
        near = keys > row_least[:, None]
        near |= keys > column_least
        row_sure, column_sure = (torch.empty(low.shape, dtype=torch.int64) for low in (row_low, column_low))
        for layer, (low, high) in enumerate(zip(row_low, row_high, strict=True)):
            above = keys > high[:, None]
            row_sure[layer] = above.sum(dim=1)
            near |= above.logical_xor_(keys > low[:, None])
        for layer, (low, high) in enumerate(zip(column_low, column_high, strict=True)):
            above = keys > high
            column_sure[layer] = above.sum(dim=0)
            near |= above.logical_xor_(keys > low)
        row, column = near.nonzero(as_tuple=True)
        return ScreenedTile(
            row_sure=row_sure.numpy(),
            column_sure=column_sure.numpy(),
            rows=row.to(torch.int32).cpu().numpy(),
            columns=column.to(torch.int32).cpu().numpy(),
            keys=keys[row, column].cpu().numpy(),
        )

    def _raised(self, keys: torch.Tensor, bands: Bands, across: int, scale: KeyScale) -> Bands:
        """The bands of the queries with the floors that the products imply; `across` is the candidates' dimension."""
        groups = bands.groups(keys.shape[across], self._top_k)
        return bands.raised(best_keys(keys, groups, self._top_k, across), scale) if groups else bands


def best_keys(keys: torch.Tensor, groups: int, top_k: int, across: int) -> Keys:
    """Keys that `top_k` candidates of each query reach in a tile; `across` is the candidates' dimension.

    They are the last of the best of the bests of disjoint groups of candidates.
    """
    size = keys.shape[across] // groups
    shape = (len(keys), groups, size) if across else (groups, size, keys.shape[1])
    best = keys.narrow(across, 0, groups * size).reshape(shape).amax(dim=across + 1)
    return best.topk(top_k, dim=across).values.select(across, -1).cpu().numpy()
