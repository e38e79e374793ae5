"""Screen tiles on a CUDA device in two Triton kernels that write only results: the product stays in registers.

**The first kernel** multiplies with accumulation in float32 and compares the accumulator itself, so that the bands are
keys of float32 for operands of any precision: nothing is rounded after the sum, and `bounds` holds with the accumulator
in the place of the rounded product. The kernel counts what the bands prove and lists the undecided cells.

**The second kernel** scores these cells in float64. Its sum and that of `kernels.score_cells` may have other orders, so
each is off by at most g(D, 2^-53) |a| |b|, and they differ by at most the last term of the bound of `bounds`. With
this, and 2^-50 of the values compared for the rounding of their differences from kappa, it decides nearly all of them.
The others, which tie or can be hits, are left to `kernels.score_cells`, the only routine whose scores decide by
themselves or are reported. A cell that is left in one comparison is left in all of them.

**What it assumes** of the device is in `bounds`; `fused_works` tests on the device that the kernels agree with float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.ranking import bounds
from clipstore.ranking.bands import Bands, KeyScale, ScreenedTile
from clipstore.ranking.device_copies import copy_to
from clipstore.ranking.tiles import TileSide, best_keys

_Ints = NDArray[np.int32]
_Longs = NDArray[np.int64]

# Rows, columns and depth of a program's block, by the size of an operand's element. Compiled for the devices of the
# tests these fit into the registers, which larger ones do not on all of them; none has been timed.
_BLOCKS = {2: (128, 64, 32), 4: (64, 64, 32)}
_GROUP = 8
_SHARE = 16  # one of so many cells can be undecided before a tile is screened in parts
_SETTLE_PROGRAMS = 512
SETTLE_OPTIONS = {
    "BLOCK_CELLS": 16,
    "BLOCK_WIDTH": 64,
    "num_warps": 4,
    "num_stages": 2,
    "enable_fp_fusion": True,
}


@dataclass(frozen=True, kw_only=True)
class DeviceQueries:
    """One side of a tile on the device, contiguous.

    Attributes:
        prepared: (n, K) float16, bfloat16 or float32.
        values: (n, D) float32.
        size: (n,) float64: the product of a row's and a column's bounds the errors of a score in float64.
        low, high, least: (L, n), (L, n) and (n,) int32, as in `Bands`.
        targets, floor: (L, n) and (n,) float64, as in `Bands`.
    """

    prepared: torch.Tensor
    values: torch.Tensor
    size: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    least: torch.Tensor
    targets: torch.Tensor
    floor: torch.Tensor

    def part(self, part: slice) -> DeviceQueries:
        """The queries `part`."""
        return DeviceQueries(
            prepared=self.prepared[part],
            values=self.values[part],
            size=self.size[part],
            low=self.low[:, part].contiguous(),
            high=self.high[:, part].contiguous(),
            least=self.least[part],
            targets=self.targets[:, part].contiguous(),
            floor=self.floor[part],
        )


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of a tile of which each holds (row * columns + column) * 2^32 + key, in no order: (capacity,) int64.

    `count`, (1,) int32, is their number; those beyond the capacity are missing.
    """

    packed: torch.Tensor
    count: torch.Tensor

    @classmethod
    def empty(cls, capacity: int, device: torch.device) -> Cells:
        """No cells."""
        return cls(
            packed=torch.empty(capacity, dtype=torch.int64, device=device),
            count=torch.zeros(1, dtype=torch.int32, device=device),
        )


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of scores surely above each target, `rows` (L, R) and `columns` (L', C), int32."""

    rows: torch.Tensor
    columns: torch.Tensor


def screen_tile(rows: DeviceQueries, columns: DeviceQueries, capacity: int) -> tuple[Counts, Cells]:
    """The counts that the product of a tile proves, and its undecided cells; R * C must be less than 2^31."""
    from clipstore.ranking import fused_kernel

    device = rows.prepared.device
    counts = Counts(
        rows=torch.zeros(rows.low.shape, dtype=torch.int32, device=device),
        columns=torch.zeros(columns.low.shape, dtype=torch.int32, device=device),
    )
    cells = Cells.empty(capacity, device)
    options = screen_options(rows.prepared.element_size())
    programs = -(-len(rows.prepared) // options["BLOCK_ROWS"]) * -(-len(columns.prepared) // options["BLOCK_COLUMNS"])
    launch(
        fused_kernel.screen_tile,
        programs,
        (
            rows.prepared,
            columns.prepared,
            rows.low,
            rows.high,
            rows.least,
            counts.rows,
            columns.low,
            columns.high,
            columns.least,
            counts.columns,
            cells.packed,
            cells.count,
        ),
        (*_sizes(rows, columns, rows.prepared.shape[1]), capacity),
        options,
    )
    return counts, cells


def settle_cells(
    cells: Cells, rows: DeviceQueries, columns: DeviceQueries, shift: torch.Tensor, counts: Counts
) -> Cells:
    """Add the cells that scores in float64 decide to the counts; the others.

    `shift`, (1,) float64, is kappa.
    """
    from clipstore.ranking import fused_kernel

    capacity = len(cells.packed)
    remaining = Cells.empty(capacity, cells.packed.device)
    launch(
        fused_kernel.settle_cells,
        min(_SETTLE_PROGRAMS, -(-capacity // SETTLE_OPTIONS["BLOCK_CELLS"])),
        (
            cells.packed,
            cells.count,
            rows.values,
            columns.values,
            *(rows.low, rows.high, rows.least, rows.targets, rows.floor, rows.size, counts.rows),
            *(columns.low, columns.high, columns.least, columns.targets, columns.floor, columns.size, counts.columns),
            shift,
            remaining.packed,
            remaining.count,
        ),
        (*_sizes(rows, columns, rows.values.shape[1]), capacity),
        SETTLE_OPTIONS,
    )
    return remaining


def _sizes(rows: DeviceQueries, columns: DeviceQueries, width: int) -> tuple[int, ...]:
    return len(rows.prepared), len(columns.prepared), width, len(rows.low), len(columns.low)


def screen_options(itemsize: int) -> dict[str, int]:
    """The constants and options that the first kernel is compiled with, for operands of `itemsize` bytes."""
    rows, columns, depth = _BLOCKS[itemsize]
    return {
        "BLOCK_ROWS": rows,
        "BLOCK_COLUMNS": columns,
        "BLOCK_DEPTH": depth,
        "GROUP": _GROUP,
        "num_warps": 8,
        "num_stages": 3,
        "enable_fp_fusion": True,
    }


def launch(
    kernel: Any, programs: int, tensors: Sequence[torch.Tensor], sizes: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Run `programs` programs of a kernel on the device of its tensors.

    Raises:
        RuntimeError: the tensors are on several devices; the kernel would read memory that is not its own.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        message = f"tensors of one kernel on {sorted(map(str, devices))}"
        raise RuntimeError(message)
    start(kernel, programs, tensors, sizes, options)


def start(
    kernel: Any, programs: int, tensors: Sequence[torch.Tensor], sizes: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Start a kernel on tensors of one device, which Triton expects to be the current one."""
    with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]
        kernel[(programs,)](*tensors, *sizes, **options)


class FusedScreen:
    """Screens tiles on a CUDA device with the kernels; keys are those of products in float32."""

    def __init__(self, top_k: int, shift: float, device: str) -> None:
        self._top_k = top_k
        self._shift = torch.full((1,), shift, dtype=torch.float64, device=device)

    def __call__(self, left: TileSide, right: TileSide, scale: KeyScale) -> ScreenedTile:
        """Screen a tile."""
        row_bands, column_bands = self._raised(left, right, scale)
        rows, columns = _tile_queries(left, row_bands), _tile_queries(right, column_bands)
        row_sure, column_sure, cells = zip(*self._screened(rows, columns), strict=True)
        packed = np.concatenate(cells)
        places = packed >> 32
        return ScreenedTile(
            row_sure=np.concatenate(row_sure, axis=1, dtype=np.int64),
            column_sure=np.stack(column_sure).sum(axis=0, dtype=np.int64),
            rows=(places // len(columns.prepared)).astype(np.int32),
            columns=(places % len(columns.prepared)).astype(np.int32),
            keys=packed.astype(np.int32),  # the lower half
        )

    def _raised(self, left: TileSide, right: TileSide, scale: KeyScale) -> tuple[Bands, Bands]:
        """The bands of both sides; while hits are missing, with the floors that the library's product implies."""
        groups = left.bands.groups(len(right.low), self._top_k), right.bands.groups(len(left.low), self._top_k)
        if not any(groups):
            return left.bands, right.bands
        keys = bounds.keys(left.low @ right.low.T)
        products = bounds.FloatKeys(left.low.dtype, left.rows.unit * right.rows.unit)
        raised = []
        for bands, count, across in ((left.bands, groups[0], 1), (right.bands, groups[1], 0)):
            if count:
                least = products.least(best_keys(keys, count, self._top_k, across))
                raised.append(bands.raised(scale.below(least), scale))
            else:
                raised.append(bands)
        return raised[0], raised[1]

    def _screened(self, rows: DeviceQueries, columns: DeviceQueries) -> Iterator[tuple[_Ints, _Ints, _Longs]]:
        """The counts and the remaining cells of a tile, or of parts of its rows if too many cells are undecided."""
        height, width = len(rows.prepared), len(columns.prepared)
        capacity = max(width, height * width // _SHARE)
        size = capacity // width
        for first, last in ((0, height), *((low, min(low + size, height)) for low in range(0, height, size))):
            part = rows.part(slice(first, last))
            counts, cells = screen_tile(part, columns, capacity)
            remaining = settle_cells(cells, part, columns, self._shift, counts)
            if int(cells.count) <= capacity:
                packed = remaining.packed[: int(remaining.count)].sort().values.cpu().numpy()
                yield counts.rows.cpu().numpy(), counts.columns.cpu().numpy(), packed + (first * width << 32)
                if last - first == height:
                    return


def device_queries(values: torch.Tensor, prepared: torch.Tensor, terms: torch.Tensor, bands: Bands) -> DeviceQueries:
    """Rows on the device, values (n, D) and prepared (n, K) with the terms of their bounds, and their bands."""
    copies = (
        copy_to(str(values.device), part) for part in (bands.low, bands.high, bands.least, bands.targets, bands.floor)
    )
    low, high, least, targets, floor = copies
    return DeviceQueries(
        prepared=prepared,
        values=values,
        size=terms[:, -1].contiguous(),
        low=low,
        high=high,
        least=least,
        targets=targets,
        floor=floor,
    )


def _tile_queries(side: TileSide, bands: Bands) -> DeviceQueries:
    rows, part = side.rows, side.part
    return device_queries(rows.on_device[part], rows.low[part], rows.terms[part], bands)
