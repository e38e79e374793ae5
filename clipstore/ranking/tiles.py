"""One tile of the score matrix: its product in low precision, the counts that it proves, and the undecided cells."""

from __future__ import annotations

from dataclasses import dataclass
from threading import local
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.ranking import bounds, kernels

Keys = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The bands of some queries as keys: `low` and `high` (L, n) of each target, `floor` (n,) of the hits.

    A product whose key exceeds `high` has a score above the target; one whose key does not exceed `low` has a score
    below it; a score among the hits has a key above `floor`. Without a target, `low` and `high` are the greatest key.
    """

    low: Keys
    high: Keys
    floor: Keys

    def part(self, part: slice) -> Bands:
        """The bands of the queries `part`."""
        return Bands(low=self.low[:, part], high=self.high[:, part], floor=self.floor[part])


@dataclass(frozen=True, kw_only=True)
class ScreenedTile:
    """The result of screening a tile: the numbers of scores surely above each target, and the undecided cells.

    `row_sure` and `column_sure` are (L, n); `rows`, `columns` and `keys` have an entry for each undecided cell.
    """

    row_sure: NDArray[Any]
    column_sure: NDArray[Any]
    rows: NDArray[Any]
    columns: NDArray[Any]
    keys: Keys


class Screen(local):
    """Screens tiles on the CPU in compiled loops, with buffers for each thread."""

    def __init__(self, tile: tuple[int, int], precision: torch.dtype) -> None:
        rows, columns = tile
        self._product = torch.empty(rows * columns, dtype=precision)
        self._place, self._mask = bounds.sign_place(precision), bounds.magnitude(precision)
        kind = bounds.keys(self._product[:0]).numpy().dtype
        self._line = np.empty(columns, dtype=kind)
        self._words = np.zeros(-(-columns // 8), dtype=np.uint64)
        self._places = np.empty(len(self._words), dtype=np.int32)
        self._cells = np.empty((2, rows * columns + 1), dtype=np.int32)
        self._keys = np.empty(rows * columns + 1, dtype=kind)

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product (R, C) of prepared rows (R, K) and (C, K); valid until the next call."""
        product = self._product[: len(left) * len(right)].view(len(left), len(right))
        return torch.mm(left, right.T, out=product)

    def __call__(self, product: torch.Tensor, rows: Bands, columns: Bands) -> ScreenedTile:
        """Screen a product (R, C); the result is valid until the next call."""
        width = product.shape[1]
        kind = self._line.dtype
        row_sure, column_sure = (np.empty(side.low.shape, dtype=kind) for side in (rows, columns))
        words = self._words[: -(-width // 8)]
        words[:] = 0
        count = kernels.screen(
            product.view(bounds.BITS[product.dtype]).numpy(),
            kind.type(self._place),
            kind.type(self._mask),
            rows.low,
            rows.high,
            rows.floor,
            row_sure,
            columns.low,
            columns.high,
            columns.floor,
            column_sure,
            self._line[:width],
            words.view(np.uint8),
            words,
            self._places,
            self._cells,
            self._keys,
        )
        return ScreenedTile(
            row_sure=row_sure,
            column_sure=column_sure,
            rows=self._cells[0, :count],
            columns=self._cells[1, :count],
            keys=self._keys[:count],
        )


class DeviceScreen:
    """Screens tiles with torch's operations, on the device of the prepared rows."""

    def product(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product (R, C) of prepared rows (R, K) and (C, K)."""
        return left @ right.T

    def __call__(self, product: torch.Tensor, row_bands: Bands, column_bands: Bands) -> ScreenedTile:
        """Screen a product (R, C)."""
        rows, columns = (
            tuple(torch.from_numpy(keys).to(product.device) for keys in (bands.low, bands.high, bands.floor))
            for bands in (row_bands, column_bands)
        )
        cell_keys = bounds.keys(product)
        near = cell_keys > rows[2][:, None]
        near |= cell_keys > columns[2]
        row_sure, column_sure = (torch.empty(low.shape, dtype=torch.int64) for low, _, _ in (rows, columns))
        for layer, (low, high) in enumerate(zip(*rows[:2], strict=True)):
            above = cell_keys > high[:, None]
            row_sure[layer] = above.sum(dim=1)
            near |= above.logical_xor_(cell_keys > low[:, None])
        for layer, (low, high) in enumerate(zip(*columns[:2], strict=True)):
            above = cell_keys > high
            column_sure[layer] = above.sum(dim=0)
            near |= above.logical_xor_(cell_keys > low)
        row, column = near.nonzero(as_tuple=True)
        return ScreenedTile(
            row_sure=row_sure.numpy(),
            column_sure=column_sure.numpy(),
            rows=row.to(torch.int32).cpu().numpy(),
            columns=column.to(torch.int32).cpu().numpy(),
            keys=cell_keys[row, column].cpu().numpy(),
        )
