"""Expectations over the orders of a tie, from the definition and in exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb


def reciprocal_rank(greater: int, tied: int, positives: int) -> Fraction:
    """E[1 / (greater + R)], R the place of the first of `positives` among `tied`: P(R > r) = C(T-p, r) / C(T, r)."""
    beyond = [Fraction(comb(tied - positives, place), comb(tied, place)) for place in range(tied - positives + 2)]
    chances = [before - after for before, after in itertools.pairwise(beyond)]  # of R = 1, 2, ...
    return sum((chance / (greater + place) for place, chance in enumerate(chances, 1)), Fraction(0))
