"""What a tile's screen is given for each query, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    def of(
        cls, targets: Doubles, floor: Doubles, margins: Doubles, fine_margins: Doubles, scale: KeyScale
    ) -> list[Bands]:
        """The bands in the keys of `scale`, for each of the margins (T, n) of some tiles."""
        margins = margins + scale.lost
        low, high = scale.below(targets - margins[:, None]), scale.above(targets + margins[:, None])
        least = scale.below(floor - margins)
        most, none = np.iinfo(low.dtype).max, np.isnan(targets)
        if none.any():
            low[:, none] = high[:, none] = most
        least[:, floor == np.inf] = most
        return [
            cls(
                targets=targets,
                floor=floor,
                margin=margins[tile],
                fine_margin=fine_margins[tile],
                low=low[tile],
                high=high[tile],
                least=least[tile],
            )
            for tile in range(len(margins))
        ]

    def part(self, part: slice) -> Bands:
        """The bands of the queries `part`; contiguous, because loops are compiled again for other arrays."""
        return Bands(
            targets=np.ascontiguousarray(self.targets[:, part]),
            floor=self.floor[part],
            margin=self.margin[part],
            fine_margin=self.fine_margin[part],
            low=np.ascontiguousarray(self.low[:, part]),
            high=np.ascontiguousarray(self.high[:, part]),
            least=self.least[part],
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


@dataclass(frozen=True, kw_only=True)
class ScreenedTile:
    """The result of screening a tile: the numbers of scores surely above each target, and the undecided cells.

    `row_sure` and `column_sure` are (L, n); `rows`, `columns` and `keys` have an entry for each undecided cell;
    `row_least` and `column_least` are the keys that those of hits exceed, which the tile's products can have raised.
    """

    row_sure: NDArray[Any]
    column_sure: NDArray[Any]
    rows: NDArray[Any]
    columns: NDArray[Any]
    keys: Keys
    row_least: Keys
    column_least: Keys
