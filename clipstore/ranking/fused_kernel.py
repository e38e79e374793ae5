"""The Triton kernel of `fused`: one tile's product, its counts and its undecided cells, without the product in memory.

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
    row_floor,
    row_sure,
    column_low,
    column_high,
    column_floor,
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
    near = key > tl.load(row_floor + row, mask=row_valid, other=0x7FFFFFFF)[:, None]
    near = near | (key > tl.load(column_floor + column, mask=column_valid, other=0x7FFFFFFF)[None, :])
    for layer in range(row_layers):
        low = tl.load(row_low + layer * rows + row, mask=row_valid, other=0x7FFFFFFF)
        high = tl.load(row_high + layer * rows + row, mask=row_valid, other=0x7FFFFFFF)
        if tl.max((low < high).to(tl.int32)) > 0:  # a layer has few targets where queries have few pairs
            above = key > high[:, None]
            near = near | ((key > low[:, None]) ^ above)
            found = tl.sum((above & valid).to(tl.int32), axis=1)
            tl.atomic_add(row_sure + layer * rows + row, found, mask=row_valid & (found > 0))
    for layer in range(column_layers):
        low = tl.load(column_low + layer * columns + column, mask=column_valid, other=0x7FFFFFFF)
        high = tl.load(column_high + layer * columns + column, mask=column_valid, other=0x7FFFFFFF)
        if tl.max((low < high).to(tl.int32)) > 0:
            above = key > high[None, :]
            near = near | ((key > low[None, :]) ^ above)
            found = tl.sum((above & valid).to(tl.int32), axis=0)
            tl.atomic_add(column_sure + layer * columns + column, found, mask=column_valid & (found > 0))

    # Each cell takes its place by an atomic addition: a scan over the block needs twice the registers, which spill.
    listed = near & valid
    slot = tl.atomic_add(count + tl.zeros((BLOCK_ROWS, BLOCK_COLUMNS), dtype=tl.int32), 1, mask=listed)
    place = row[:, None] * columns + column[None, :]
    packed = (place.to(tl.int64) << 32) | (key.to(tl.int64) & 0xFFFFFFFF)
    tl.store(cells + slot, packed, mask=listed & (slot < capacity))
