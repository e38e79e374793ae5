"""The certificate: what a product in low precision proves about the exact scores.

**The product.** Let a be an image's stored vector and b a text's, D wide, and s = a·b. With any vectors mu and nu,
s = (a - mu)·(b - nu) + a·nu + b·mu - mu·nu. Vectors of one modality lie in a cone, so with mu and nu near the sides'
means a - mu and b - nu are short, and so is everything below that grows with their lengths. A block holds, in the
screen's precision, A = fl(a - mu), and behind it P = fl(a·nu), P' = fl(a·nu - P), 1, 1; the other side has
B = fl(b - nu), 1, 1, Q = fl(b·mu - mu·nu - kappa) and Q'. The product of the two rows is therefore s - kappa up to
errors. kappa is the mean score of the pairs: near a pair's score the product is then small, and so is the error of its
rounding to bfloat16.

**Its error.** Let e = (a - mu) - A and f = (b - nu) - B, known exactly. Then
(a - mu)·(b - nu) - A·B = e·(b - nu) + A·f, by Cauchy-Schwarz at most |e| |b - nu| + |A| |f|. The library multiplies
exactly (the product of two bfloat16 has 16 bits) or with one rounding, and accumulates in float32, in any order: off by
at most g(K, 2^-24) (|A| |B| + |P| + |P'| + |Q| + |Q'|), where g(n, u) = n u / (1 - n u) and K = D + 4 terms (Higham,
Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1). Values below float32's normal range may be
flushed to zero: at most K 2^-126 (1 + |A| + |B|). The error of P and Q after two pieces is known and added. The float64
arithmetic of all this, and of the scores themselves, adds at most 2 g(D + 8, 2^-53) (|a| + |mu|) (|b| + |nu|), and its
own rounding a millionth of the whole. The sum of these is m. It is a sum of products of a term of a and a term of
b, so that m for a row and a whole tile needs only the greatest of each term in the tile; blocks are sorted by
|a - mu|, so that the greatest is close to each row's term.

**What it proves.** The stored product x is the accumulated value p rounded once, and rounding keeps order. With a
target t (some pair's score, less kappa): if x > fl(t + m) then p > t + m, and s > t; if x < fl(t - m) then s < t.
The cells between the two are scored in float64. This is sound for any mu, nu and kappa; they only make the band narrow.

**float16** has a smaller range. The rows of a block are multiplied by a power of two, its `unit`, such that |A|, P and
1 are at most 2^7, and so products and their bounds by the units of both sides: the keys of a target are those of
(t ± m) times both units. Entries that are still beyond the range become the greatest, and those below the normal range
become 0, so that nothing depends on how a device treats subnormal numbers; e includes both. Products of normal float16
numbers are multiples of 2^-48: no sum of them is subnormal in float32.

**GPUs.** Tensor cores add products in groups: the addends of a group, one of them the sum so far, are aligned to the
greatest and truncated there to 24 bits or more, and so is their sum (Fasi, Higham, Mikaitis and Pranesh, Numerical
behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021). With n products in a group that is off by at most
(n + 2) 2^-23 times the sum of the absolute values, in all (K / n + 1) (n + 2) 2^-23 times it, which for n of 4 to 16 is
less than with 2^-22 in the place of 2^-24 above. Where the accumulated value itself is compared (`fused`), x = p.

**What it assumes** of the library is accumulation in float32, on a GPU as described, and one final rounding to nearest
or none. `trusted` tests this on the machine, with sums that cancel; if a precision fails, the next one is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.device import has_native_bf16
from clipstore.ranking import quantise

Keys = NDArray[Any]

PRECISIONS = {
    "int8": torch.int8,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}
_CHUNK = 512  # rows prepared at once: their float64 copies fit into the processor's cache

EXTRA = 4  # columns of a prepared row after those of its vector
_ALIGNED = 32  # columns of a prepared row on a device are a multiple: the kernel reads them in vectors
_LARGEST_FP16, _LEAST_NORMAL_FP16 = 65504.0, 2.0**-14
_LENGTH_FP16 = 2.0**7  # of rows in float16: products of two rows and their offsets stay in its range


@dataclass(frozen=True, kw_only=True)
class Centre:
    """The vectors mu and nu, (D,) float64, and kappa, from the point of view of one side."""

    mean: torch.Tensor  # of this side
    other_mean: torch.Tensor
    shift: float  # kappa
    left: bool

    def swapped(self) -> Centre:
        """The same from the point of view of the other side."""
        return Centre(mean=self.other_mean, other_mean=self.mean, shift=self.shift, left=not self.left)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows ready for the product: `low` (n, K) in the screen's precision, and `terms` (n, 6) float64 of their bound.

    The bound of a row of the left side and one of the right is the dot product of their terms. `low` has been
    multiplied by `unit`, a power of two.
    """

    low: torch.Tensor
    terms: torch.Tensor
    unit: float


def prepare(values: torch.Tensor, centre: Centre, precision: torch.dtype) -> Prepared:
    """Prepare rows (n, D) of float32 for products; see the module's docstring."""
    width, unit = values.shape[1], _unit(values, centre) if precision == torch.float16 else 1.0
    low = torch.zeros((len(values), prepared_width(width, values.device.type)), dtype=precision, device=values.device)
    low[:, width : width + EXTRA] = unit
    if values.device.type == "cpu" and precision in (torch.bfloat16, torch.float32):
        sums = _round_in_loop(values, centre, low)
    else:
        sums = torch.empty((5, len(values)), dtype=torch.float64, device=values.device)
        for start in range(0, len(values), _CHUNK):
            part = slice(start, start + _CHUNK)
            sums[:, part] = _round(values[part].double(), centre, unit, low[part])
    return Prepared(low=low, terms=_add_pieces(sums, centre, unit, low, width), unit=unit)


def prepared_width(width: int, device_type: str) -> int:
    """The columns of a prepared row: those of the vector, `EXTRA`, and on a device zeros up to a round number."""
    columns = width + EXTRA
    return columns if device_type == "cpu" else -(-columns // _ALIGNED) * _ALIGNED


def _unit(values: torch.Tensor, centre: Centre) -> float:
    """A power of two that brings prepared rows into the range of float16."""
    length = float(torch.linalg.vector_norm(values, dim=1, dtype=torch.float64).max()) if len(values) else 0.0
    mean, other = (float(torch.linalg.vector_norm(mean)) for mean in (centre.mean, centre.other_mean))
    greatest = max(1.0, length + mean, (length + mean) * other + abs(centre.shift))
    return max(2.0 ** math.floor(math.log2(_LENGTH_FP16 / greatest)), _LEAST_NORMAL_FP16)


def _rounded(values: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Values in a precision; in float16 saturated, and 0 below the normal range."""
    if precision != torch.float16:
        return values.to(precision)
    rounded = values.clamp(-_LARGEST_FP16, _LARGEST_FP16).to(precision)
    return rounded.masked_fill(rounded.abs() < _LEAST_NORMAL_FP16, 0.0)


def _round_in_loop(values: torch.Tensor, centre: Centre, low: torch.Tensor) -> torch.Tensor:
    """As `_round`, for all rows, compiled."""
    sums = np.empty((5, len(values)))
    result = low.numpy() if low.dtype == torch.float32 else bits(low).numpy()
    quantise.round_to_floats(values.numpy(), centre.mean.numpy(), centre.other_mean.numpy(), result, sums)
    np.sqrt(sums[1:], out=sums[1:])
    return torch.from_numpy(sums)


def _round(wide: torch.Tensor, centre: Centre, unit: float, low: torch.Tensor) -> torch.Tensor:
    """Set the first columns of `low` to rows (n, D) less the mean, times `unit`.

    Returns:
        (5, n): the product of each row and the other mean; the lengths of the row, of the row less the mean, of what is
        lost, and of the result.
    """
    width = wide.shape[1]
    centred = wide - centre.mean
    low[:, :width] = _rounded(centred * unit, low.dtype)
    result = low[:, :width].double() / unit
    lengths = [torch.linalg.vector_norm(part, dim=1) for part in (wide, centred, centred - result, result)]
    return torch.stack([wide @ centre.other_mean, *lengths])


def _add_pieces(sums: torch.Tensor, centre: Centre, unit: float, low: torch.Tensor, width: int) -> torch.Tensor:
    """Set P or Q in the columns of `low` after the first `width`; the terms of the bound of each row."""
    offset, size, length, error, rounded_length = sums
    if not centre.left:
        offset = offset - (centre.mean @ centre.other_mean + centre.shift)
    size = size + torch.linalg.vector_norm(centre.mean)
    pieces = slice(width, width + 2) if centre.left else slice(width + 2, width + 4)
    rest = offset
    for piece in range(pieces.start, pieces.stop):
        low[:, piece] = _rounded(rest * unit, low.dtype)
        rest = rest - low[:, piece].double() / unit
    single, double = gamma(width + 8, _accumulation(low.device.type)), gamma(width + 8, 2.0**-53)
    tiny = (width + EXTRA) * 2.0**-126
    alone = rest.abs() + single * low[:, pieces].double().abs().sum(dim=1) / unit + tiny * (1 + rounded_length)
    ones = torch.ones_like(alone)
    # Factors of the left and of the right side, term by term: error and length, rounded length and error, accumulation,
    # the part of each side alone (twice), the arithmetic in float64.
    if centre.left:
        factors = (error, rounded_length, single * rounded_length, alone, ones, 2 * double * size)
    else:
        factors = (length, error, rounded_length, ones, alone, size)
    return torch.stack(factors, dim=1) * (1 + 1e-6)


def _accumulation(device_type: str) -> float:
    """The unit roundoff that bounds a device's accumulation in float32."""
    return 2.0**-24 if device_type == "cpu" else 2.0**-22


def gamma(count: int, unit: float) -> float:
    """The greatest relative error of a sum of `count` products in a unit roundoff, in any order (Higham)."""
    return count * unit / (1 - count * unit)


def bits(values: torch.Tensor) -> torch.Tensor:
    """Floats as integers of their size with the same bits."""
    return values.view(BITS[values.dtype])


def keys(values: torch.Tensor) -> torch.Tensor:
    """Floats as integers of their size that sort as the floats do; -0 comes just before 0."""
    return bits(values) ^ ((bits(values) >> sign_place(values.dtype)) & magnitude(values.dtype))


def sign_place(precision: torch.dtype) -> int:
    """The place of a float's sign bit."""
    return torch.iinfo(BITS[precision]).bits - 1


def magnitude(precision: torch.dtype) -> int:
    """The mask of a float's other bits, as an integer; also the key that no score exceeds."""
    return torch.iinfo(BITS[precision]).max


@dataclass(frozen=True)
class FloatKeys:
    """The keys of products of one type, see `bands.KeyScale`; `unit` is the product of the units of both sides."""

    precision: torch.dtype
    unit: float = 1.0
    lost: float = 0.0

    def above(self, bounds: NDArray[np.float64]) -> Keys:
        """Keys such that a product above them had, before its rounding, a value above its bound."""
        return self._keys(bounds, below=False)

    def below(self, bounds: NDArray[np.float64]) -> Keys:
        """Keys such that a product not above them had, before its rounding, a value below its bound."""
        return self._keys(bounds, below=True)

    def _keys(self, values: NDArray[np.float64], *, below: bool) -> Keys:
        keys = _rounded_bits(np.ascontiguousarray(values) * self.unit, self.precision)
        quantise.sort_bounds(keys.reshape(-1), keys.dtype.type(magnitude(self.precision)), below)
        return keys

    def least(self, keys: Keys) -> NDArray[np.float64]:
        """The least values, before their rounding, of products with these keys."""
        signed = torch.from_numpy(keys)
        products = (signed ^ ((signed >> sign_place(self.precision)) & magnitude(self.precision))).view(self.precision)
        info = torch.finfo(self.precision)
        wide = products.double().clamp(max=info.max)  # infinite if it was rounded up
        tiny = max(info.tiny * info.eps, 2.0**-126)  # between subnormal numbers, or flushed to zero
        return ((wide - wide.abs() * info.eps - tiny) / self.unit).numpy()


def _rounded_bits(values: NDArray[np.float64], precision: torch.dtype) -> Keys:
    """The bits of values rounded to a precision, by numpy: torch takes longer to start an operation."""
    with np.errstate(over="ignore"):  # to infinity, which is a bound, too
        if precision != torch.bfloat16:
            return values.astype(f"f{precision.itemsize}").view(f"i{precision.itemsize}")
        single = values.astype(np.float32).view(np.int32)
    result = np.empty(values.shape, dtype=np.int16)
    quantise.bfloat16_bits(single.reshape(-1), result.reshape(-1))
    return result


def margins(terms: torch.Tensor, others: torch.Tensor) -> NDArray[np.float64]:
    """The bounds of the products of some rows, with their terms (m, T), and others (n, T): (n, m)."""
    return (others @ terms.T).cpu().numpy()


def device_precision(device: str) -> str:
    """The fastest precision that a GPU multiplies natively and that satisfies the assumptions of the bound."""
    native = ["fp16", "bf16", "fp32", "fp64"] if has_native_bf16(device) else ["fp16", "fp32", "fp64"]
    return next(name for name in native if name == "fp64" or trusted(name, device))


def int8_product(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> None:
    """Set the product (R, C) int32 of rows (R, K) and (C, K) of int8."""
    torch._int_mm(left, right.T, out=product)


@contextmanager
def accumulation_in_float32() -> Iterator[None]:
    """Within it, the library's products on CUDA devices accumulate in float32 in all their steps."""
    flags = torch.backends.cuda.matmul
    names = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    before = [getattr(flags, name) for name in names]
    for name in names:
        setattr(flags, name, False)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(flags, name, value)


@cache
@accumulation_in_float32()
def trusted(name: str, device: str) -> bool:
    """Whether the library's product stays within the bound, on sums that cancel and on sums that end near zero."""
    if name == "int8":
        return torch.device(device).type == "cpu" and _int8_is_exact()
    precision = PRECISIONS[name]
    scale, unit = FloatKeys(precision), _accumulation(torch.device(device).type)
    generator = torch.Generator().manual_seed(0)
    for width in (12, 516, 2052):
        left, right = (torch.randn((48, width), generator=generator) for _ in range(2))
        half = width // 2
        left[:, half : 2 * half] = left[:, :half]
        right[::2, half : 2 * half] = -right[::2, :half]  # half of the sums cancel, after large partial sums
        left, right = left.to(precision).to(device), right.to(precision).to(device)
        products = keys(left @ right.T).cpu().numpy()
        wide, other = left.cpu().double(), right.cpu().double()
        exact = wide @ other.T
        margin = gamma(width, unit) * torch.outer(wide.norm(dim=1), other.norm(dim=1))
        above, below = scale.above((exact + margin).numpy()), scale.below((exact - margin).numpy())
        if not ((products <= above) & (products > below)).all():
            return False
    return True


def _int8_is_exact() -> bool:
    """Whether the library's product of int8 is exact, also of the greatest values.

    Processors without an instruction for it can saturate sums of two products in int16.
    """
    generator = torch.Generator().manual_seed(0)
    for rows, width in ((48, 64), (33, 512), (1, 2048)):
        left, right = (torch.randint(-127, 128, (rows, width), dtype=torch.int8, generator=generator) for _ in range(2))
        left[::3], right[::2] = 127, 127
        right[1::4] = -127
        product = torch.empty((rows, rows), dtype=torch.int32)
        try:
            int8_product(left, right, product)
        except (AttributeError, RuntimeError):  # not in this build of torch
            return False
        if not torch.equal(product.double(), left.double() @ right.double().T):
            return False
    return True
