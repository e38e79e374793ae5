"""Operations of compiled loops that are written in LLVM's language, because numba has no vector operations.

LLVM translates them to the processor's instructions: on x86, the sums of products of int16 to one that multiplies and
adds 32 of them at once. Pure Python loops reach half of the speed: numba's compiler recognises the sum of one pair of
rows, but not of several that share a row.
"""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from clipstore.ranking.aligned import CACHE_LINE

PAIRS = 4  # products of one row that `products` computes at once
WORD = 64  # keys that `keys_above` compares at once

_LANES = 32  # the products of an instruction
_WORD = ir.IntType(64)
_SUM = ir.IntType(32)
_SHORTS = ir.VectorType(ir.IntType(16), _LANES)
_PRODUCTS = ir.VectorType(_SUM, _LANES)
_SUMS = ir.VectorType(_SUM, _LANES // 2)


@intrinsic
def products(_context: Any, row: Any, columns: Any, places: Any, first: Any, sums: Any) -> Any:
    """Set sums[first + n] to the sum of the products of `row` and columns[places[first + n]], for n < PAIRS.

    `row` (K,) and `columns` (C, K) are int16, K is a multiple of 32, `places` int32 and `sums` int32 have at least
    first + PAIRS entries. The sums must fit into int32. All arrays are contiguous.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, columns, places, sums = (
            context.make_array(signature.args[at])(context, builder, arguments[at]) for at in (0, 1, 2, 4)
        )
        width = cgutils.unpack_tuple(builder, columns.shape, 2)[1]
        cells = [builder.add(arguments[3], _constant(n)) for n in range(PAIRS)]
        rows = [builder.sext(builder.load(builder.gep(places.data, [cell])), _WORD) for cell in cells]
        starts = [builder.gep(columns.data, [builder.mul(place, width)]) for place in rows]
        totals = [cgutils.alloca_once_value(builder, ir.Constant(_SUMS, None)) for _ in cells]
        with cgutils.for_range(builder, builder.udiv(width, _constant(_LANES))) as loop:
            at = builder.mul(loop.index, _constant(_LANES))
            left = _load_wide(builder, row.data, at)
            for total, start in zip(totals, starts, strict=True):
                pairs = _added_pairs(builder, builder.mul(left, _load_wide(builder, start, at)))
                builder.store(builder.add(builder.load(total), pairs), total)
        kind = ir.FunctionType(_SUM, [_SUMS])
        name = f"llvm.vector.reduce.add.v{_SUMS.count}i32"
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        for cell, total in zip(cells, totals, strict=True):
            builder.store(builder.call(reduce, [builder.load(total)]), builder.gep(sums.data, [cell]))
        return context.get_dummy_value()

    return types.void(row, columns, places, first, sums), generate


def _constant(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _load_wide(builder: Any, address: Any, at: Any) -> Any:
    """_LANES values of int16 as int32."""
    vector = builder.bitcast(builder.gep(address, [at]), _SHORTS.as_pointer())
    return builder.sext(builder.load(vector, align=2), _PRODUCTS)


def _added_pairs(builder: Any, values: Any) -> Any:
    """The sums of values 0 and 1, 2 and 3, and so on."""
    halves = (
        builder.shuffle_vector(values, values, ir.Constant(_SUMS, list(range(first, _LANES, 2)))) for first in (0, 1)
    )
    return builder.add(*halves)


@intrinsic
def keys_above(_context: Any, keys: Any, start: Any, bound: Any) -> Any:
    """WORD bits: which of keys[start : start + WORD] are above a bound, the first in the lowest bit.

    `bound` is one key, or an array of as many keys with one bound for each. The arrays are contiguous.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(context.get_value_type(signature.args[0].dtype), WORD)

        def load(at: int) -> Any:
            array = context.make_array(signature.args[at])(context, builder, arguments[at])
            address = builder.bitcast(builder.gep(array.data, [arguments[1]]), kind.as_pointer())
            return builder.load(address, align=1)

        if isinstance(signature.args[2], types.Array):
            limit = load(2)
        else:
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), arguments[2], ir.Constant(_SUM, 0))
            places = ir.Constant(ir.VectorType(_SUM, WORD), None)
            limit = builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), places)
        return builder.bitcast(builder.icmp_signed(">", load(0), limit), _WORD)

    return types.uint64(keys, start, bound), generate


@intrinsic
def count_bits(_context: Any, bits: Any) -> Any:
    """The number of bits that are set."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(bits), generate


@intrinsic
def lowest_bit(_context: Any, bits: Any) -> Any:
    """The place of the lowest bit that is set; 64 if none is."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(bits), generate


@intrinsic
def prefetch_row(_context: Any, rows: Any, row: Any) -> Any:
    """Prefetch row `row` of a contiguous array (n, K) into the cache."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        width = cgutils.unpack_tuple(builder, array.shape, 2)[1]
        start = builder.gep(array.data, [builder.mul(arguments[1], width)])
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        step = 8 * CACHE_LINE // signature.args[0].dtype.bitwidth
        with cgutils.for_range(builder, builder.udiv(builder.add(width, _constant(step - 1)), _constant(step))) as loop:
            line = builder.gep(start, [builder.mul(loop.index, _constant(step))])
            builder.call(prefetch, [builder.bitcast(line, byte), *(ir.Constant(number, n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(rows, row), generate
