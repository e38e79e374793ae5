"""Query-bank normalisation (Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022).

A candidate g that scores high with everybody is a hub: it comes first for queries that are not its own. The inverted
softmax divides its score by what a bank of other queries b gives it,

    exp(beta s(q, g)) / sum over b of exp(beta s(b, g)).

The logarithm over beta keeps the order. It is s(q, g) - c(g) with c(g) = log(sum over b of exp(beta s(b, g))) / beta: a
dot product again, of [q, 1] and [g, -c(g)]. Both directions have one pass: of the scores of [i, 1, -c(i)] and
[t, -c(t), 1], which are i . t - c(t) - c(i), what is subtracted on the query's own side is the same for all its
candidates. So the exact ranker ranks it. One number more or less in all c changes nothing: their median is taken off,
and what is left within rounding of 0 is 0, so a bank that scores all candidates alike leaves every score as it was.

The dynamic form corrects only the queries whose first hit is the first hit of some query of the bank.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.errors import VectorError
from clipstore.ranking.blocks import Rows, Side
from clipstore.ranking.ranks import DirectionRanks, Ranks, rank_pairs

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_LEAST_BETA = 1e-6  # below it, terms of 1 / beta leave float32
_ROUNDING = 1e-12  # of the median: terms that differ from it by less are equal to it
_BANK_ROWS, _CANDIDATES = 512, 8192  # rows of a product, at most: 32 MB in float64


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Other queries: `images` (B, D) ask for texts, `texts` (C, D) for images; `beta`: how sharply scores count."""

    images: Rows
    texts: Rows
    beta: float


@dataclass(frozen=True)
class _Beside:
    """Rows (N, D) with columns (N, E) beside them, joined when they are read."""

    rows: Rows
    columns: Floats

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self.rows.shape[1] + self.columns.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def __getitem__(self, part: slice, /) -> Floats:
        return np.concatenate([self.rows[part], self.columns[part]], axis=1, dtype=np.float32)


def normalised_ranks(
    images: Rows, texts: Rows, plain: Ranks, bank: Bank, *, memory: int, device: str = "cpu"
) -> tuple[Ranks, Ranks]:
    """What `rank_pairs` said of images (N, D) and texts (M, D), with inverted softmax and in its dynamic form.

    `plain` is its answer, with hits; `memory` in bytes.

    Raises:
        VectorError: beta is out of range, a vector of the bank is not finite, or the memory is too small.
    """
    if not _LEAST_BETA <= bank.beta < math.inf:
        message = f"beta is how sharply the bank's scores count, from {_LEAST_BETA} on, such as 20, not {bank.beta}"
        raise VectorError(message)
    of_image = bank_terms(bank.texts, images, bank.beta, memory=memory, device=device)
    of_text = bank_terms(bank.images, texts, bank.beta, memory=memory, device=device)
    pairs = np.stack([plain.image_to_text.query, plain.image_to_text.positive], axis=1)
    ranks = rank_pairs(
        _Beside(images, np.stack([np.ones_like(of_image), -of_image], axis=1)),
        _Beside(texts, np.stack([-of_text, np.ones_like(of_text)], axis=1)),
        pairs,
        top_k=plain.image_to_text.hits.shape[1],
        memory=memory,
        device=device,
    )
    no_matter = np.zeros((1, 2), dtype=np.int64)  # the pair that is ranked while the bank's first hits are looked for
    of_bank_images = rank_pairs(bank.images, texts, no_matter, top_k=1, memory=memory, device=device).image_to_text.hits
    of_bank_texts = rank_pairs(images, bank.texts, no_matter, top_k=1, memory=memory, device=device).text_to_image.hits
    dynamic = replace(
        ranks,
        image_to_text=_where_hit(of_bank_images, ranks.image_to_text, plain.image_to_text),
        text_to_image=_where_hit(of_bank_texts, ranks.text_to_image, plain.text_to_image),
    )
    return ranks, dynamic


def bank_terms(bank: Rows, candidates: Rows, beta: float, *, memory: int, device: str = "cpu") -> Floats:
    """c(g) of candidates (N, D) from the queries of a bank (B, D), less its median, (N,): streamed, in float64.

    Float32 at last, as vectors are. Products add up in an order that differs from column to column, so a candidate that
    was there before takes the term of its first occurrence: equal candidates have equal terms.
    """
    queries, wanted = Side(bank, "bank"), Side(candidates, "candidate")
    # A candidate and its part of a product in float64, and once more the product's while it is exponentiated.
    room = memory // (12 * wanted.width + 2 * 8 * _BANK_ROWS)
    terms = torch.full((len(wanted),), -torch.inf, dtype=torch.float64)
    first: dict[bytes, int] = {}
    same = np.empty(len(wanted), dtype=np.int64)
    for low, high in wanted.spans(max(1, min(room, _CANDIDATES))):
        rows = wanted.read(low, high)
        for place, row in enumerate(rows + np.float32(0), low):  # -0 becomes 0
            same[place] = first.setdefault(hashlib.blake2b(row, digest_size=16).digest(), place)
        block = torch.from_numpy(rows).to(device, torch.float64)
        total = torch.full((high - low,), -torch.inf, dtype=torch.float64, device=device)
        for start, stop in queries.spans(_BANK_ROWS):
            product = torch.from_numpy(queries.read(start, stop)).to(device, torch.float64) @ block.T
            total = torch.logaddexp(total, torch.logsumexp(product.mul_(beta), dim=0))
        terms[low:high] = total.cpu() / beta
    terms = terms[torch.from_numpy(same)]
    median = terms.median()
    terms -= median
    terms[terms.abs() <= _ROUNDING * max(1.0, abs(float(median)))] = 0.0
    return terms.to(torch.float32).numpy()


def _where_hit(bank_hits: Ints, corrected: DirectionRanks, plain: DirectionRanks) -> DirectionRanks:
    """The corrected ranks of the queries whose first hit is one of the bank's, the plain ones of the others."""
    asked = np.isin(plain.hits[:, 0], bank_hits)
    pair, row = asked[plain.query], asked[:, None]
    return replace(
        plain,
        n_greater=np.where(pair, corrected.n_greater, plain.n_greater),
        n_equal=np.where(pair, corrected.n_equal, plain.n_equal),
        score=np.where(pair, corrected.score, plain.score),
        hits=np.where(row, corrected.hits, plain.hits),
        hit_scores=np.where(row, corrected.hit_scores, plain.hit_scores),
    )
