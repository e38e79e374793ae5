"""The compiled loops that round vectors: to integers, see `integers`, and on a CPU to floats, see `bounds`."""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.ranking.compiling import njit

Doubles = NDArray[np.float64]

LANES = 8  # float64 of a vector


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def measure_rows(values: Any, mean: Doubles, lengths: Doubles) -> None:  # pragma: no cover - compiled
    """Set the lengths (n,) of rows (n, D) less the mean (D,)."""
    for row in range(values.shape[0]):
        centred = 0.0
        for k in range(values.shape[1]):
            value = np.float64(values[row, k]) - mean[k]
            centred += value * value
        lengths[row] = np.sqrt(centred)


@njit(nogil=True, cache=True)
def greatest_value(values: Any, mean: Doubles) -> float:  # pragma: no cover - compiled
    """The greatest absolute value of rows (n, D) less the mean (D,)."""
    greatest = 0.0
    for row in range(values.shape[0]):
        for k in range(values.shape[1]):
            greatest = max(greatest, abs(np.float64(values[row, k]) - mean[k]))
    return greatest


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def round_rows(
    values: Any,
    mean: Doubles,
    other_mean: Doubles,
    step: float,
    fine: NDArray[np.int16],
    offset: Doubles,
    error: Doubles,
    rounded: Doubles,
) -> None:  # pragma: no cover - compiled
    """Round rows (n, D) less the mean to int16 (n, K), without a rotation; other arguments as in `quantise_rows`."""
    centred = np.zeros(fine.shape[1])
    for row in range(values.shape[0]):
        offset[row] = _centre_row(values[row], mean, other_mean, centred)
        error[row], rounded[row] = _round_row(centred, step, 32767.0, fine[row])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def quantise_rows(
    values: Any,
    mean: Doubles,
    other_mean: Doubles,
    source: NDArray[np.int32],
    signs: Doubles,
    transform: int,
    steps: Doubles,
    fine: NDArray[np.int16],
    coarse: NDArray[np.int8],
    offset: Doubles,
    errors: Doubles,
    rounded: Doubles,
) -> None:  # pragma: no cover - compiled
    """Rotate rows less the mean, and round them to both types of integers.

    Args:
        values: (n, D) float32; mean, other_mean: (D,).
        source, signs, transform: the rotation, see `_rotation`.
        steps: of int16 and of int8.
        fine, coarse: (n, K), set.
        offset: (n,), set to the product of the row less the mean and the other mean.
        errors, rounded: (2, n), set to the lengths of what both roundings lose, and of their results.
    """
    count, width = coarse.shape
    centred, rotated = np.zeros(width), np.empty(width)
    for row in range(count):
        offset[row] = _centre_row(values[row], mean, other_mean, centred)
        for k in range(width):
            rotated[k] = centred[source[k]] * signs[k]
        _transform(rotated, transform)
        errors[0, row], rounded[0, row] = _round_row(rotated, steps[0], 32767.0, fine[row])
        errors[1, row], rounded[1, row] = _round_row(rotated, steps[1], 127.0, coarse[row])


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _centre_row(
    values: Any, mean: Doubles, other_mean: Doubles, centred: Doubles
) -> Any:  # pragma: no cover - compiled
    """Set the start of `centred` to a row less the mean; its product with the other mean."""
    total = 0.0
    for k in range(len(values)):
        centred[k] = np.float64(values[k]) - mean[k]
        total += centred[k] * other_mean[k]
    return total


@njit(nogil=True, cache=True)
def _transform(values: Doubles, size: int) -> None:  # pragma: no cover - compiled
    """Hadamard transforms within each run of `size` values, in place.

    A transform has the values with one remainder modulo LANES: so each stage adds vectors of adjacent values. An
    iteration does two stages; the last of an odd number is done alone.
    """
    part = size
    while part > 2 * LANES:
        part //= 4
        for start in range(0, len(values), 4 * part):
            second, third, fourth, end = start + part, start + 2 * part, start + 3 * part, start + 4 * part
            a, b, c, d = values[start:second], values[second:third], values[third:fourth], values[fourth:end]
            for k in range(part):
                sum_ac, sum_bd, difference_ac, difference_bd = a[k] + c[k], b[k] + d[k], a[k] - c[k], b[k] - d[k]
                a[k], b[k] = sum_ac + sum_bd, sum_ac - sum_bd
                c[k], d[k] = difference_ac + difference_bd, difference_ac - difference_bd
    if part == 2 * LANES:
        for start in range(0, len(values), part):
            a, b = values[start : start + LANES], values[start + LANES : start + part]
            for k in range(LANES):
                a[k], b[k] = a[k] + b[k], a[k] - b[k]


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def _round_row(values: Doubles, step: float, most: float, result: Any) -> Any:  # pragma: no cover - compiled
    """Round values to integers of a step; the lengths of what is lost and of the result."""
    error, length, scale = 0.0, 0.0, 1.0 / step
    for k in range(len(values)):
        digit = min(max(np.rint(values[k] * scale), -most), most)
        result[k] = result.dtype.type(digit)
        lost = values[k] - digit * step
        error += lost * lost
        length += digit * digit
    return np.sqrt(error), np.sqrt(length) * step


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def round_to_floats(
    values: Any, mean: Doubles, other_mean: Doubles, low: Any, sums: Doubles
) -> None:  # pragma: no cover - compiled
    """Round rows less the mean to float32 or to bfloat16.

    Args:
        values: (n, D) float32; mean, other_mean: (D,).
        low: (n, K) float32, or int16 for the bits of bfloat16; the first D columns are set.
        sums: (5, n), set to the product of each row and the other mean, and to the sums of squares of the row, of the
            row less the mean, of what is lost, and of the result.
    """
    single = np.empty(values.shape[1], dtype=np.float32)
    bits = single.view(np.int32)
    for row in range(values.shape[0]):
        product, size, length, error, rounded = 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(values.shape[1]):
            value = np.float64(values[row, k])
            product += value * other_mean[k]
            size += value * value
            single[k] = value - mean[k]
        if low.itemsize == 2:
            for k in range(values.shape[1]):
                low[row, k] = _upper_half(bits[k])
                bits[k] = np.int32(low[row, k]) << 16
        else:
            for k in range(values.shape[1]):
                low[row, k] = single[k]
        for k in range(values.shape[1]):
            centred = np.float64(values[row, k]) - mean[k]
            result = np.float64(single[k])
            length += centred * centred
            error += (centred - result) * (centred - result)
            rounded += result * result
        sums[0, row], sums[1, row], sums[2, row], sums[3, row], sums[4, row] = product, size, length, error, rounded


@njit(nogil=True, cache=True, inline="always")
def _upper_half(bits: Any) -> Any:  # pragma: no cover - compiled
    """The bits of a float32 rounded to bfloat16: to nearest, ties to even."""
    return np.int16(np.int32(bits + np.int32(0x7FFF) + ((bits >> 16) & np.int32(1))) >> 16)


@njit(nogil=True, cache=True)
def bfloat16_bits(bits: NDArray[np.int32], result: NDArray[np.int16]) -> None:  # pragma: no cover - compiled
    """Set the bits (n,) of float32 rounded to bfloat16; those of NaN mean nothing."""
    for n in range(len(bits)):
        result[n] = _upper_half(bits[n])


@njit(nogil=True, cache=True)
def round_bounds(
    bounds: Doubles, step: float, slack: float, added: int, most: int, keys: NDArray[np.int16]
) -> None:  # pragma: no cover - compiled
    """Set keys (n,) to bounds divided by a step, rounded down; infinite ones are clipped, NaN becomes 0.

    `slack` times its size is added to a quotient, for the division rounds; `added` to a key.
    """
    for n in range(len(bounds)):
        scaled = bounds[n] / step
        scaled = -2.0 * most if scaled < -2.0 * most else scaled
        scaled = 2.0 * most if scaled > 2.0 * most else scaled
        rounded = np.floor(scaled + abs(scaled) * slack)
        # Clipped before the addition: keys below and above a bound stay different. Equal ones stand for no target.
        rounded = -float(most) if rounded < -most else rounded
        rounded = float(most) if rounded > most else rounded
        keys[n] = np.int16(0.0 if np.isnan(rounded) else rounded + added)


@njit(nogil=True, cache=True, inline="always")
def float_key(bits: Any, magnitude: Any) -> Any:  # pragma: no cover - compiled
    """The key of a float's bits, see `bounds.keys`; the bits with a magnitude of 0."""
    return bits ^ magnitude if bits < 0 else bits


@njit(nogil=True, cache=True)
def sort_bounds(bits: NDArray[Any], magnitude: Any, below: bool) -> None:  # noqa: FBT001  # pragma: no cover - compiled
    """Replace the bits (n,) of bounds by their keys, see `bounds.keys`, or by the keys below those.

    A bound of either zero has the key of the greater, or that below the key of the less.
    """
    for n in range(len(bits)):
        key = float_key(bits[n], magnitude)
        if below:
            bits[n] = -2 if key == 0 else key - 1
        else:
            bits[n] = 0 if key == -1 else key
