"""Merge the parts of a score matrix: counts add, and the best hits of a row are among those of its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking import kernels
from clipstore.ranking.parts import Part, PartDirection, PartRanks
from clipstore.ranking.prepared import pairs_of
from clipstore.ranking.targets import Targets

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DirectionRanks:
    """The ranks of one direction.

    Attributes:
        query, positive: row numbers (P,), int64, in the order of the pairs.
        n_greater, n_equal: the numbers of other candidates with a greater and with an equal score, (P,) int64.
        score: the positive's score, (P,) float64.
        hits: the row numbers of each query's best candidates, (N, top_k) int64, best first, of equal scores the
            smaller row number first; -1 if there are fewer candidates.
        hit_scores: their scores, (N, top_k) float64; NaN if there are fewer.
    """

    query: Ints
    positive: Ints
    n_greater: Ints
    n_equal: Ints
    score: Doubles
    hits: Ints
    hit_scores: Doubles


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The ranks of both directions.

    `screen` is the precision of the product; `rechecked` the number of scores that were recomputed in float64.
    """

    image_to_text: DirectionRanks
    text_to_image: DirectionRanks
    screen: str
    rechecked: int


class Merge:
    """The parts merged so far; they can be added in any order, each cell of the matrix once.

    Attributes:
        whole: the part that is the whole matrix.
    """

    def __init__(self, targets: Targets, *, images: int, texts: int, top_k: int) -> None:
        self.whole = Part(images=range(images), texts=range(texts))
        self._cells, self._parts = 0, set[Part]()
        self._screens, self._rechecked = set[str](), 0
        self._rows = _MergedDirection(self.whole.images, targets.pairs[:, 0], top_k)
        self._columns = _MergedDirection(self.whole.texts, targets.pairs[:, 1], top_k)
        self._targets = targets

    def add(self, ranks: PartRanks) -> None:
        """Add a part, whose arrays may be changed.

        Raises:
            VectorError: it was added before.
        """
        if ranks.part in self._parts and ranks.part.cells:
            message = f"{ranks.part} of the scores was ranked twice: its counts would be wrong"
            raise VectorError(message)
        self._parts.add(ranks.part)
        self._cells += ranks.part.cells
        self._screens.add(ranks.screen)
        self._rechecked += ranks.rechecked
        self._rows.add(ranks.image_to_text)
        self._columns.add(ranks.text_to_image)

    def ranks(self) -> Ranks:
        """The ranks of the whole matrix. No part can be added afterwards.

        Raises:
            VectorError: the parts are not the whole matrix.
        """
        if self._cells != self.whole.cells:
            message = f"{self._cells} of {self.whole.cells} scores were ranked: the counts would be wrong"
            raise VectorError(message)
        image, text = self._targets.pairs.T
        return Ranks(
            image_to_text=self._rows.ranks(image, text, self._targets.scores),
            text_to_image=self._columns.ranks(text, image, self._targets.scores),
            screen="+".join(sorted(self._screens)),
            rechecked=self._rechecked,
        )


class _MergedDirection:
    """The counts of all pairs, and the hits of all rows, in one direction."""

    def __init__(self, rows: range, query: Ints, top_k: int) -> None:
        self._rows, self._query, self._top_k = rows, query, top_k
        self._greater, self._equal = np.zeros((2, len(query)), dtype=np.int64)
        self._hits: Ints | None = None
        self._hit_scores: Doubles | None = None

    def add(self, part: PartDirection) -> None:
        chosen = pairs_of(part.queries, self._query)
        self._greater[chosen] += part.n_greater
        self._equal[chosen] += part.n_equal
        if self._hits is None and part.queries == self._rows:
            # Not copied unless they are read-only: they can be half of the memory.
            self._hits = np.require(part.hits, requirements="W")
            self._hit_scores = np.require(part.hit_scores, requirements="W")
            return
        hits, scores = self._merged_hits()
        rows = slice(part.queries.start, part.queries.stop)
        kernels.merge_hits(hits[rows], scores[rows], part.hits, part.hit_scores)

    def ranks(self, query: Ints, positive: Ints, score: Doubles) -> DirectionRanks:
        hits, hit_scores = self._merged_hits()
        return DirectionRanks(
            query=query,
            positive=positive,
            n_greater=self._greater,
            n_equal=self._equal - 1,  # each positive was counted as equal to itself once
            score=score,
            hits=hits,
            hit_scores=hit_scores,
        )

    def _merged_hits(self) -> tuple[Ints, Doubles]:
        """The hits of all rows and their scores, none at first."""
        if self._hits is None or self._hit_scores is None:
            shape = (len(self._rows), self._top_k)
            self._hits, self._hit_scores = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan)
        return self._hits, self._hit_scores
