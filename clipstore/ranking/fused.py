"""Screen tiles on a CUDA device in two Triton kernels that write only results: the product stays in registers.

**The first kernel** multiplies with accumulation in float32 and compares the accumulator itself, so that the bands are
keys of float32 for operands of any precision: nothing is rounded after the sum, and `bounds` holds with the accumulator
in the place of the rounded product. The kernel counts what the bands prove and lists the undecided cells.

**The second kernel** scores these cells in float64. Its sum and that of `kernels.score_cells` may have other orders, so
each is off by at most g(D, 2^-53) |a| |b|, and they differ by at most the last term of the bound of `bounds`. With
this, and 2^-50 of the values compared for the rounding of their differences from kappa, it decides nearly all of them.
The others, which tie or can be hits, are left to `kernels.score_cells`, the only routine whose scores decide by
themselves or are reported. A cell that is left in one comparison is left in all of them.

**What it assumes** of the device is in `bounds`; `trusted` tests on the device that the kernels agree with float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

# Rows, columns and depth of a program's block, by the size of an operand's element. Compiled for the devices of the
# tests these fit into the registers, which larger ones do not on all of them; none has been timed.
_BLOCKS = {2: (128, 64, 32), 4: (64, 64, 32)}
_GROUP = 8
_BLOCK_CELLS, _SETTLE_PROGRAMS = 16, 512
SETTLE_OPTIONS = {
    "BLOCK_CELLS": _BLOCK_CELLS,
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
        min(_SETTLE_PROGRAMS, -(-capacity // _BLOCK_CELLS)),
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
    kernel: Any, programs: int, tensors: tuple[torch.Tensor, ...], sizes: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Start `programs` programs of a kernel on the device of its tensors.

    Raises:
        RuntimeError: the tensors are on several devices; the kernel would read memory that is not its own.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        message = f"tensors of one kernel on {sorted(map(str, devices))}"
        raise RuntimeError(message)
    kernel[(programs,)](*tensors, *sizes, **options)
