"""Screen tiles on a CUDA device in one Triton kernel: the product stays in registers, and only results are written.

The kernel accumulates in float32 and compares the accumulator itself, so bands are keys of float32 whatever the
precision of the operands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Rows, columns and depth of a program's block by the size of an operand's element: float32 takes twice the registers.
_BLOCKS = {2: (128, 128, 32), 4: (64, 64, 32)}
_GROUP = 8
OPTIONS = {"num_warps": 8, "num_stages": 3, "enable_fp_fusion": True}


@dataclass(frozen=True, kw_only=True)
class DeviceBands:
    """`Bands` on the device: `low` and `high` (L, n), and `floor` (n,), int32, contiguous."""

    low: torch.Tensor
    high: torch.Tensor
    floor: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The result of the kernel: `row_sure` (L, R) and `column_sure` (L', C) int32, and the undecided cells.

    `places` (n,) are row * C + column of each undecided cell, in no order, and `keys` (n,) those of their products,
    both int64. They are complete unless `count`, the number of undecided cells, exceeds the capacity.
    """

    row_sure: torch.Tensor
    column_sure: torch.Tensor
    places: torch.Tensor
    keys: torch.Tensor
    count: int


def constants(itemsize: int) -> dict[str, int]:
    """The constants that the kernel is compiled with, for operands of `itemsize` bytes."""
    names = ("BLOCK_ROWS", "BLOCK_COLUMNS", "BLOCK_DEPTH", "GROUP")
    return dict(zip(names, (*_BLOCKS[itemsize], _GROUP), strict=True))


def screen_tile(
    left: torch.Tensor, right: torch.Tensor, rows: DeviceBands, columns: DeviceBands, capacity: int
) -> Counts:
    """Screen the product of rows (R, K) and (C, K), contiguous, of float16, bfloat16 or float32.

    R * C must be less than 2^31.
    """
    from clipstore.ranking import fused_kernel

    device = left.device
    row_sure, column_sure = (torch.zeros(side.low.shape, dtype=torch.int32, device=device) for side in (rows, columns))
    cells = torch.empty(capacity, dtype=torch.int64, device=device)
    count = torch.zeros(1, dtype=torch.int32, device=device)
    block = constants(left.element_size())
    programs = -(-len(left) // block["BLOCK_ROWS"]) * -(-len(right) // block["BLOCK_COLUMNS"])
    fused_kernel.screen_tile[(programs,)](
        left,
        right,
        rows.low,
        rows.high,
        rows.floor,
        row_sure,
        columns.low,
        columns.high,
        columns.floor,
        column_sure,
        cells,
        count,
        len(left),
        len(right),
        left.shape[1],
        len(rows.low),
        len(columns.low),
        capacity,
        **block,
        **OPTIONS,
    )
    found = int(count)
    cells = cells[:found]
    return Counts(
        row_sure=row_sure,
        column_sure=column_sure,
        places=cells >> 32,
        keys=cells << 32 >> 32,
        count=found,
    )
