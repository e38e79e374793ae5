"""What a tile's screen is given for each query, and what it returns."""

# numba's functions carry no types of their own.
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipstore.ranking.compiling import njit

Keys = NDArray[Any]
Doubles = NDArray[np.float64]

_GROUPS = 4  # groups of a tile's candidates for each hit, at least: their bests are nearly the k best candidates
_LANES = 64  # the number of groups is a multiple, so that compiled loops over them have whole vectors


class KeyScale(Protocol):
    """How the products of a tile become keys: integers that sort as the products do.

    `lost` is added to the bound of the error of every product.
    """

    @property
    def lost(self) -> float:
        """What is added to every bound."""
        ...

    def above(self, bounds: Doubles) -> Keys:
        """Keys such that the exact value of a product with a greater key is above its bound."""
        ...

    def below(self, bounds: Doubles) -> Keys:
        """Keys such that the exact value of a product with a key that is not greater is below its bound."""
        ...

    def least(self, keys: Keys) -> Doubles:
        """The least exact values of products with these keys."""
        ...


@dataclass(frozen=True, kw_only=True)
class Bands:
    """The targets of some queries in a tile, and the bands of products around them that prove nothing.

    All values are less kappa.

    Attributes:
        targets: (L, n) float64, NaN: none.
        floor: (n,) float64, the least score of a hit; infinity if there are no hits, -infinity if any score can be.
        margin, fine_margin: (n,) float64, the bounds of the error of the products, and of those in int16.
        low, high: (L, n) keys. A product whose key exceeds `high` has a score above the target; one whose key does not
            exceed `low` has a score below it. Without a target they are equal.
        least: (n,) keys, a score among the hits has a key above it.
    """

    targets: Doubles
    floor: Doubles
    margin: Doubles
    fine_margin: Doubles
    low: Keys
    high: Keys
    least: Keys

    @classmethod
    def of(cls, targets: Doubles, floor: Doubles, margin: Doubles, fine_margin: Doubles, scale: KeyScale) -> Bands:
        """The bands in the keys of `scale`."""
        margin = margin + scale.lost
        count = len(targets)
        bounds = np.empty((2 * count + 1, len(margin)))
        _set_bounds(targets, floor, margin, bounds)
        below, high = scale.below(bounds[: count + 1]), scale.above(bounds[count + 1 :])
        low, least = below[:count], below[count].copy()  # two arrays of one address confuse Triton's interpreter
        _set_missing(targets, floor, low, high, least)
        return cls(
            targets=targets, floor=floor, margin=margin, fine_margin=fine_margin, low=low, high=high, least=least
        )

    def groups(self, candidates: int, top_k: int) -> int:
        """The groups of a tile's candidates whose bests raise the floor; 0 if they cannot.

        They can while hits are missing, if there are as many candidates as hits.
        """
        groups = min(-(-_GROUPS * top_k // _LANES) * _LANES, candidates)
        return groups if top_k and groups >= top_k and np.isneginf(self.floor).any() else 0

    def raised(self, best: Keys, scale: KeyScale) -> Bands:
        """The bands with the floor that follows when `top_k` candidates of each query have keys of at least `best`."""
        floor = np.maximum(self.floor, scale.least(best) - self.margin)
        return replace(self, floor=floor, least=np.maximum(self.least, scale.below(floor - self.margin)))


@njit(nogil=True, cache=True)
def _set_bounds(
    targets: Doubles, floor: Doubles, margin: Doubles, bounds: Doubles
) -> None:  # pragma: no cover - compiled
    """Set the bounds (2L + 1, n): of products below each target, of those below the floor, of those above each."""
    count = len(targets)
    for i in range(len(margin)):
        bounds[count, i] = floor[i] - margin[i]
    for layer in range(count):
        for i in range(len(margin)):
            bounds[layer, i] = targets[layer, i] - margin[i]
            bounds[count + 1 + layer, i] = targets[layer, i] + margin[i]


@njit(nogil=True, cache=True)
def _set_missing(
    targets: Doubles, floor: Doubles, low: Keys, high: Keys, least: Keys
) -> None:  # pragma: no cover - compiled
    """Set the keys of missing targets and of infinite floors to the greatest, which no product exceeds."""
    greatest = np.iinfo(low.dtype).max
    for i in range(len(floor)):
        least[i] = greatest if floor[i] == np.inf else least[i]
    for layer in range(len(targets)):
        for i in range(len(floor)):
            missing = np.isnan(targets[layer, i])
            low[layer, i] = greatest if missing else low[layer, i]
            high[layer, i] = greatest if missing else high[layer, i]


@dataclass(frozen=True, kw_only=True)
class PossibleHits:
    """Cells that can be hits, (h,): their rows and columns, and what their scores less kappa are at most."""

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    most: Doubles

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: slice) -> PossibleHits:
        """Some of the cells."""
        return PossibleHits(rows=self.rows[chosen], columns=self.columns[chosen], most=self.most[chosen])

    def moved(self, row: int, column: int) -> PossibleHits:
        """The cells of a tile that starts at some row and column, as those of its blocks."""
        return PossibleHits(rows=self.rows + np.int32(row), columns=self.columns + np.int32(column), most=self.most)


def joined_hits(parts: list[PossibleHits]) -> PossibleHits:
    """The cells of all parts."""
    rows, columns, most = (
        np.concatenate([np.empty(0, dtype=kind), *(vars(part)[name] for part in parts)])
        for name, kind in (("rows", np.int32), ("columns", np.int32), ("most", np.float64))
    )
    return PossibleHits(rows=rows, columns=columns, most=most)


@dataclass(frozen=True, kw_only=True)
class ScreenedTile:
    """The result of screening a tile: the numbers of scores surely above each target, and the undecided cells.

    Attributes:
        row_sure, column_sure: (L, n).
        rows, columns, keys: (c,), the cells whose scores are needed.
        hits, least: other cells that can be hits, and what their scores less kappa are at least, (h,).
    """

    row_sure: NDArray[Any]
    column_sure: NDArray[Any]
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    keys: Keys
    hits: PossibleHits = field(default_factory=partial(joined_hits, []))
    least: Doubles = field(default_factory=partial(np.empty, 0))
