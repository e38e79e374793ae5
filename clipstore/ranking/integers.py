"""Vectors as integers: the certificate of products in int8, and of the finer ones in int16 that follow.

**The product.** As in `bounds`, s = a·b with a' = a - mu and b' = b - nu; s - kappa = a'·b' + P + Q, where
P = a'·nu and Q = b'·mu + mu·nu - kappa. Coordinates of CLIP's vectors differ in size, which a common step wastes. So
both sides are rotated by one orthogonal matrix: coordinates in random order and with random signs, then a Hadamard
transform of each 2^p of them. Every coordinate is then about as large as the others. With the rotated
a' = hA + e and b' = kB + f, where A and B are integers and h and k the steps of the sides,
a'·b' - hk A·B = e·b' + hA·f, by Cauchy-Schwarz at most |e| |b'| + |hA| |f|. A·B is exact. The errors e and f are known
for every row, those of values beyond the range of the integers included.

**int8.** The step is four deviations of a side's coordinates divided by 127. P and Q are added to A·B as integers of
the unit hk, with an error that is computed; the sum is divided by a power of two, rounding down, so that no sum of a
tile exceeds int16. Rounding down keeps order: a key above floor(t + m) proves s > t, and one below floor(t - m) s < t.

**int16.** Without products of int8 the rows are not rotated: the step is then at least the greatest value divided by
32,767. |A| < 2^15.5 in every row
of each side, so by Cauchy-Schwarz every partial sum of A·B is below 2^31. P and Q are added in float64. The bound is
about a hundredth of that of int8.

**float64.** Subtracting, rotating, and the scores themselves, err by at most 4 g(K + 32, 2^-53) (|a| + |mu|)
(|b| + |nu|) + 2^-50 |kappa|, g as in `bounds`: a stage of the transform adds at most 2^-53 of its result's length.

**What it assumes** of the library is an exact product of int8, which `bounds.trusted` tests on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.ranking import kernels, quantise
from clipstore.ranking.aligned import empty_rows
from clipstore.ranking.bounds import Centre, gamma

Doubles = NDArray[np.float64]

_LARGEST = 127  # of int8; -128 is not used
_CLIP = 4.0  # deviations of the largest int8
_ORDINARY = 1.2  # the error of a row in int8, relative to that of rows without values beyond the largest
_LARGEST_FINE = 32_767  # of int16
_FINE_LENGTH = 46_340.0  # the longest row of int16, when it is rounded: less than 2^15.5
_PAD = 64  # rows are padded to a multiple: the Hadamard transform has at least this size
WIDEST = 2**14  # values of a row in int8: sums of products, and two offsets, fit into int32
_MOST = 2**28  # the greatest offset in units of the product
_GREATEST_KEY = 32_766


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Rows as integers: `values` (n, K) times `step` are the rotated and centred rows.

    `terms` (n, 4) float64: the bound of a row of the left side and one of the right is the dot product of their terms.
    """

    values: NDArray[Any]
    step: float
    terms: torch.Tensor

    def reordered(self, order: NDArray[np.int64]) -> Integers:
        """The rows in another order; the values are reordered in place."""
        kernels.reorder_rows(self.values, order)
        return Integers(values=self.values, step=self.step, terms=self.terms[torch.from_numpy(order)])


@dataclass(frozen=True, kw_only=True)
class IntegerRows:
    """Rows in int16, and with products of int8 in int8, too.

    Attributes:
        fine, coarse: the rows in int16 and in int8.
        offset: P or Q, (n,) float64.
        clipped: (n,), whether values beyond the largest int8 make the error of a row several times that of others.
    """

    fine: Integers
    coarse: Integers | None
    offset: Doubles
    clipped: NDArray[np.bool_]

    def reordered(self, order: NDArray[np.int64]) -> IntegerRows:
        """The rows in another order; the integers are reordered in place."""
        return IntegerRows(
            fine=self.fine.reordered(order),
            coarse=self.coarse.reordered(order) if self.coarse else None,
            offset=self.offset[order],
            clipped=self.clipped[order],
        )


def padded(width: int) -> int:
    """The number of integers of a row of `width` values."""
    return -(-max(width, 1) // _PAD) * _PAD


@cache
def _rotation(width: int) -> tuple[NDArray[np.int32], Doubles, int]:
    """The source of each coordinate, its sign divided by the length of the transform's rows, and the size of a run.

    Coordinates are padded with zeros, and each run is transformed, see `quantise.quantise_rows`.
    """
    rng = np.random.default_rng(0)
    size = padded(width)
    source = rng.permutation(size).astype(np.int32)
    signs = rng.choice([-1.0, 1.0], size)
    transform = size & -size
    return source, signs / np.sqrt(transform // quantise.LANES), transform


def centred_lengths(values: NDArray[np.float32], centre: Centre) -> Doubles:
    """|a - mu| of rows (n, D), (n,)."""
    lengths = np.empty(len(values))
    quantise.measure_rows(values, centre.mean.cpu().numpy(), lengths)
    return lengths


def prepare_integers(values: NDArray[np.float32], lengths: Doubles, centre: Centre, *, in_int8: bool) -> IntegerRows:
    """Prepare rows (n, D) with their `centred_lengths` for products; see the module's docstring."""
    mean, other_mean = centre.mean.numpy(), centre.other_mean.numpy()
    count, width = len(values), padded(values.shape[1])
    spread = np.sqrt(np.mean(np.square(lengths)) / width) if count else 0.0
    steps = np.array([lengths.max(initial=0.0) / (_FINE_LENGTH - np.sqrt(width) / 2), _CLIP * spread / _LARGEST])
    steps[steps == 0] = 1.0
    fine = empty_rows(count, width, np.int16)
    coarse = empty_rows(count if in_int8 else 0, width, np.int8)
    offset, errors, rounded = np.empty(count), np.empty((2, count)), np.empty((2, count))
    if in_int8:
        rotation = _rotation(values.shape[1])
        quantise.quantise_rows(values, mean, other_mean, *rotation, steps, fine, coarse, offset, errors, rounded)
    else:
        steps[0] = max(steps[0], quantise.greatest_value(values, mean) / _LARGEST_FINE)
        quantise.round_rows(values, mean, other_mean, steps[0], fine, offset, errors[0], rounded[0])
    if not centre.left:
        offset += mean @ other_mean - centre.shift
    sizes = lengths + 2 * np.linalg.norm(mean)

    def rows(place: int, integers: NDArray[Any]) -> Integers:
        terms = _terms(centre, errors[place], rounded[place], lengths, sizes, width)
        return Integers(values=integers, step=float(steps[place]), terms=terms)

    return IntegerRows(
        fine=rows(0, fine),
        coarse=rows(1, coarse) if in_int8 else None,
        offset=offset,
        clipped=errors[1] > _ORDINARY * steps[1] * np.sqrt(width / 12) if in_int8 else np.zeros(count, dtype=np.bool_),
    )


def _terms(
    centre: Centre, error: Doubles, rounded: Doubles, length: Doubles, size: Doubles, width: int
) -> torch.Tensor:
    """Factors of the left and of the right side.

    Term by term: error and length, rounded length and error, arithmetic in float64, rounding of kappa.
    """
    double = 4 * gamma(width + 32, 2.0**-53)
    ones = np.ones_like(size)
    if centre.left:
        factors = (error, rounded, double * size, 2.0**-50 * abs(centre.shift) * ones)
    else:
        factors = (length, error, size, ones)
    return torch.from_numpy(np.stack(factors, axis=1) * (1 + 1e-6))


@dataclass(frozen=True, kw_only=True)
class IntegerKeys:
    """How the sums of a tile of int8 become keys of int16, and how bounds do.

    Attributes:
        step: a key's unit.
        shift: a key is a sum divided by two to the power of this, rounded down.
        row_offset, column_offset: int32, added to the sums of each row and of each column.
        lost: the most that the two offsets lose by their rounding.
    """

    step: float
    shift: int
    row_offset: NDArray[np.int32]
    column_offset: NDArray[np.int32]
    lost: float

    @classmethod
    def of(cls, left: Integers, left_offset: Doubles, right: Integers, right_offset: Doubles) -> IntegerKeys:
        """The keys of the products of some rows in int8 of both sides, with their P and Q."""
        unit = left.step * right.step
        offsets, lost = [], 0.0
        for offset in (left_offset, right_offset):
            rounded = np.clip(np.rint(offset / unit), -_MOST, _MOST)
            lost += float(np.abs(offset - rounded * unit).max(initial=0.0)) * (1 + 1e-6)
            offsets.append(rounded.astype(np.int32))
        greatest = _greatest_product(left, right) + sum(int(np.abs(part).max(initial=0)) for part in offsets)
        shift = (greatest // _GREATEST_KEY).bit_length()
        return cls(step=unit * 2.0**shift, shift=shift, row_offset=offsets[0], column_offset=offsets[1], lost=lost)

    def above(self, bounds: Doubles) -> NDArray[np.int16]:
        """Keys such that the exact value of a sum with a greater key is above its bound."""
        return self._keys(bounds, 1, 0)

    def below(self, bounds: Doubles) -> NDArray[np.int16]:
        """Keys such that the exact value of a sum with a key that is not greater is below its bound."""
        return self._keys(bounds, -1, -1)

    def least(self, keys: NDArray[np.int16]) -> Doubles:
        """The least values of sums with these keys."""
        return np.asarray(keys * self.step, dtype=np.float64)

    def _keys(self, bounds: Doubles, sign: int, added: int) -> NDArray[np.int16]:
        keys = np.empty(bounds.shape, dtype=np.int16)
        flat = np.ascontiguousarray(bounds).reshape(-1)
        quantise.round_bounds(flat, self.step, sign * 2.0**-50, added, _GREATEST_KEY + 1, keys.reshape(-1))
        return keys


def _greatest_product(left: Integers, right: Integers) -> int:
    """A bound of all sums of products: by Cauchy-Schwarz, or by the greatest integers."""
    if not len(left.values) or not len(right.values):
        return 0
    most = _LARGEST**2 * int(left.values.shape[1])
    lengths = left.terms[:, 1].max() / left.step, (right.terms[:, 0] + right.terms[:, 1]).max() / right.step
    return min(most, int(float(lengths[0]) * float(lengths[1])) + 1)
