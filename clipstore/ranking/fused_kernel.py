"""The Triton kernels of `fused`: one screens a tile without writing its product, one scores the undecided cells.

This module imports Triton, so only `fused` imports it, and only when it is needed.
"""

# Triton's compiler accepts no annotations but its own.
# mypy: disable-error-code="untyped-decorator, no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def screen_tile(
    left,
    right,
    row_low,
    row_high,
    row_least,
    row_sure,
    column_low,
    column_high,
    column_least,
    column_sure,
    cells,
    count,
    rows,
    columns,
    depth,
    row_layers,
    column_layers,
    capacity,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_DEPTH: tl.constexpr,
    GROUP: tl.constexpr,
):  # pragma: no cover - compiled
    """Screen the block of a tile that the program's number chooses; arguments as in `fused.screen_tile`.

    Consecutive programs share GROUP blocks of rows, so that their operands stay in the cache.
    """
    row_blocks, column_blocks = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(columns, BLOCK_COLUMNS)
    program = tl.program_id(0)
    first = program // (GROUP * column_blocks) * GROUP
    size = tl.minimum(row_blocks - first, GROUP)
    within = program % (GROUP * column_blocks)
    row = (first + within % size) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = (within // size) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    row_valid, column_valid = row < rows, column < columns

    product = tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.float32)
    for start in range(0, depth, BLOCK_DEPTH):
        place = start + tl.arange(0, BLOCK_DEPTH)
        place_valid = place < depth
        row_part = tl.load(
            left + row[:, None] * depth + place[None, :], mask=row_valid[:, None] & place_valid[None, :], other=0.0
        )
        column_part = tl.load(
            right + column[None, :] * depth + place[:, None],
            mask=column_valid[None, :] & place_valid[:, None],
            other=0.0,
        )
        product = tl.dot(row_part, column_part, product, input_precision="ieee")

    # The comparisons are of keys and not of floats: the host compares the same integers again.
    key = product.to(tl.int32, bitcast=True)
    key = key ^ ((key >> 31) & 0x7FFFFFFF)
    valid = row_valid[:, None] & column_valid[None, :]
    near = key > tl.load(row_least + row, mask=row_valid, other=0x7FFFFFFF)[:, None]
    near = near | (key > tl.load(column_least + column, mask=column_valid, other=0x7FFFFFFF)[None, :])
    for layer in range(row_layers):
        low = tl.load(row_low + layer * rows + row, mask=row_valid, other=0x7FFFFFFF)
        high = tl.load(row_high + layer * rows + row, mask=row_valid, other=0x7FFFFFFF)
        if tl.max((low < high).to(tl.int32)) > 0:  # a layer has few targets where queries have few pairs
            above = key > high[:, None]
            near = near | ((key > low[:, None]) ^ above)
            total = tl.sum((above & valid).to(tl.int32), axis=1)
            tl.atomic_add(row_sure + layer * rows + row, total, mask=row_valid & (total > 0))
    for layer in range(column_layers):
        low = tl.load(column_low + layer * columns + column, mask=column_valid, other=0x7FFFFFFF)
        high = tl.load(column_high + layer * columns + column, mask=column_valid, other=0x7FFFFFFF)
        if tl.max((low < high).to(tl.int32)) > 0:
            above = key > high[None, :]
            near = near | ((key > low[None, :]) ^ above)
            total = tl.sum((above & valid).to(tl.int32), axis=0)
            tl.atomic_add(column_sure + layer * columns + column, total, mask=column_valid & (total > 0))

    # Each cell takes its place by an atomic addition: a scan over the block needs twice the registers, which spill.
    listed = near & valid
    slot = tl.atomic_add(count + tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.int32), 1, mask=listed)
    place = row[:, None] * columns + column[None, :]
    packed = (place.to(tl.int64) << 32) | (key.to(tl.int64) & 0xFFFFFFFF)
    tl.store(cells + slot, packed, mask=listed & (slot < capacity))


@triton.jit
def settle_cells(
    cells,
    count,
    left,
    right,
    row_low,
    row_high,
    row_least,
    row_target,
    row_floor,
    row_size,
    row_sure,
    column_low,
    column_high,
    column_least,
    column_target,
    column_floor,
    column_size,
    column_sure,
    shift,
    open_cells,
    open_count,
    rows,
    columns,
    width,
    row_layers,
    column_layers,
    capacity,
    BLOCK_CELLS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):  # pragma: no cover - compiled
    """Score cells in float64, count those that this decides, and list the others; see `fused.settle_cells`.

    Each program takes blocks of cells until there are no more.
    """
    total = tl.minimum(tl.load(count), capacity)
    kappa = tl.load(shift)
    for first in range(tl.program_id(0) * BLOCK_CELLS, total, tl.num_programs(0) * BLOCK_CELLS):
        cell = first + tl.arange(0, BLOCK_CELLS)
        valid = cell < total
        packed = tl.load(cells + cell, mask=valid, other=0)
        place, key = (packed >> 32).to(tl.int32), packed.to(tl.int32)
        row, column = place // columns, place % columns
        score = tl.zeros((BLOCK_CELLS,), dtype=tl.float64)
        for start in range(0, width, BLOCK_WIDTH):
            k = start + tl.arange(0, BLOCK_WIDTH)
            mask = valid[:, None] & (k < width)[None, :]
            row_part = tl.load(left + row[:, None].to(tl.int64) * width + k[None, :], mask=mask, other=0.0)
            column_part = tl.load(right + column[:, None].to(tl.int64) * width + k[None, :], mask=mask, other=0.0)
            score += tl.sum(row_part.to(tl.float64) * column_part.to(tl.float64), axis=1)
        score -= kappa
        error = tl.load(row_size + row, mask=valid, other=0.0) * tl.load(column_size + column, mask=valid, other=0.0)

        open_cell = _can_be_hit(row_least, row_floor, row, key, score, error, valid)
        open_cell = open_cell | _can_be_hit(column_least, column_floor, column, key, score, error, valid)
        for layer in range(row_layers):
            at = layer * rows + row
            near, difference, margin = _compared(row_low, row_high, row_target, at, key, score, error, valid)
            open_cell = open_cell | (near & (tl.abs(difference) <= margin))
        for layer in range(column_layers):
            at = layer * columns + column
            near, difference, margin = _compared(column_low, column_high, column_target, at, key, score, error, valid)
            open_cell = open_cell | (near & (tl.abs(difference) <= margin))
        # The host counts an open cell in all layers, so that it is counted here in none.
        for layer in range(row_layers):
            at = layer * rows + row
            near, difference, _ = _compared(row_low, row_high, row_target, at, key, score, error, valid)
            tl.atomic_add(row_sure + at, 1, mask=near & (difference > 0) & (open_cell == 0))
        for layer in range(column_layers):
            at = layer * columns + column
            near, difference, _ = _compared(column_low, column_high, column_target, at, key, score, error, valid)
            tl.atomic_add(column_sure + at, 1, mask=near & (difference > 0) & (open_cell == 0))

        listed = open_cell & valid
        slot = tl.atomic_add(open_count + tl.zeros((BLOCK_CELLS,), dtype=tl.int32), 1, mask=listed)
        tl.store(open_cells + slot, packed, mask=listed)


@triton.jit
def _can_be_hit(least, floor, query, key, score, error, valid):  # pragma: no cover - compiled
    bound = tl.load(floor + query, mask=valid, other=0.0)
    margin = error + (tl.abs(score) + tl.abs(bound)) * 8.881784197001252e-16  # 2^-50
    return valid & (key > tl.load(least + query, mask=valid, other=0x7FFFFFFF)) & (score - bound >= -margin)


@triton.jit
def _compared(low, high, target, at, key, score, error, valid):  # pragma: no cover - compiled
    """Whether the cells were undecided, how far their scores are above the target, and the error of that."""
    near = key > tl.load(low + at, mask=valid, other=0x7FFFFFFF)
    near = near & (key <= tl.load(high + at, mask=valid, other=0x7FFFFFFF))
    bound = tl.load(target + at, mask=near, other=0.0)
    return near, score - bound, error + (tl.abs(score) + tl.abs(bound)) * 8.881784197001252e-16  # 2^-50
