"""Query-bank normalisation (Bogolin et al., "Cross Modal Retrieval with Querybank Normalisation", CVPR 2022).

A candidate g with high scores for many queries is a hub: it is first for queries of which it is no positive. The
inverted softmax divides its score by those with a bank of other queries b,

    exp(beta s(q, g)) / sum over b of exp(beta s(b, g)).

The logarithm divided by beta has the same order. It is s(q, g) - c(g) with
c(g) = log(sum over b of exp(beta s(b, g))) / beta: a dot product again, of [q, 1] and [g, -c(g)]. One pass ranks both
directions: of the scores of [i, 1, -c(i)] and [t, -c(t), 1], which are i . t - c(t) - c(i), the term of the query is
the same for all its candidates. So the exact ranker applies. A constant added to all c changes no rank: their median is
subtracted, and differences within rounding of 0 are set to 0, so that a bank with equal scores for all candidates
leaves every score unchanged.

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
from clipstore.ranking.blocks import Side, VectorRows, spans
from clipstore.ranking.merge import DirectionRanks, Ranks
from clipstore.ranking.ranks import rank_pairs

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

_MIN_BETA = 1e-6  # below it, terms of 1 / beta leave float32
_ROUNDING = 1e-12  # terms that differ from the median by less than this part of it are equal to it
_BANK_ROWS, _CANDIDATES = 512, 8192  # rows of a product, at most: 32 MB in float64


@dataclass(frozen=True, kw_only=True)
class Bank:
    """Other queries: `images` (B, D) for texts, `texts` (C, D) for images; `beta`: the inverse temperature."""

    images: VectorRows
    texts: VectorRows
    beta: float


@dataclass(frozen=True)
class _ExtendedRows:
    """Rows (N, D) with additional columns (N, E), which are appended when they are read."""

    rows: VectorRows
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
    images: VectorRows, texts: VectorRows, plain: Ranks, bank: Bank, *, memory: int, device: str = "cpu"
) -> tuple[Ranks, Ranks]:
    """The ranks of images (N, D) and texts (M, D) with inverted softmax, and with its dynamic form.

    `plain` are the ranks without a correction, with hits; `memory` is in bytes.

    Raises:
        VectorError: beta is out of range, a vector of the bank is not finite, or the memory is too small.
    """
    if not _MIN_BETA <= bank.beta < math.inf:
        message = f"beta must be a finite number of at least {_MIN_BETA}, such as 20, not {bank.beta}"
        raise VectorError(message)
    of_image = bank_terms(bank.texts, images, bank.beta, memory=memory, device=device)
    of_text = bank_terms(bank.images, texts, bank.beta, memory=memory, device=device)
    pairs = np.stack([plain.image_to_text.query, plain.image_to_text.positive], axis=1)
    ranks = rank_pairs(
        _ExtendedRows(images, np.stack([np.ones_like(of_image), -of_image], axis=1)),
        _ExtendedRows(texts, np.stack([-of_text, np.ones_like(of_text)], axis=1)),
        pairs,
        top_k=plain.image_to_text.hits.shape[1],
        memory=memory,
        device=device,
    )
    any_pair = np.zeros((1, 2), dtype=np.int64)  # only the hits are used
    of_bank_images = rank_pairs(bank.images, texts, any_pair, top_k=1, memory=memory, device=device).image_to_text.hits
    of_bank_texts = rank_pairs(images, bank.texts, any_pair, top_k=1, memory=memory, device=device).text_to_image.hits
    dynamic = replace(
        ranks,
        image_to_text=_where_hit(of_bank_images, ranks.image_to_text, plain.image_to_text),
        text_to_image=_where_hit(of_bank_texts, ranks.text_to_image, plain.text_to_image),
    )
    return ranks, dynamic


def bank_terms(bank: VectorRows, candidates: VectorRows, beta: float, *, memory: int, device: str = "cpu") -> Floats:
    """c(g) of candidates (N, D) from the queries of a bank (B, D), less its median: (N,) float32, computed in float64.

    Both sides are streamed. The order of a product's sum differs from column to column, so a candidate gets the term of
    the first equal candidate: equal candidates have equal terms.
    """
    queries, candidate_side = Side(bank, "bank"), Side(candidates, "candidate")
    # A candidate and its part of a product in float64, and the product once more while it is exponentiated.
    rows_in_memory = memory // (12 * candidate_side.width + 2 * 8 * _BANK_ROWS)
    terms = torch.full((len(candidate_side),), -torch.inf, dtype=torch.float64)
    first: dict[bytes, int] = {}
    first_equal = np.empty(len(candidate_side), dtype=np.int64)
    for low, high in spans(range(len(candidate_side)), max(1, min(rows_in_memory, _CANDIDATES))):
        rows = candidate_side.read(low, high)
        for place, row in enumerate(rows + np.float32(0), low):  # -0 becomes 0
            first_equal[place] = first.setdefault(hashlib.blake2b(row, digest_size=16).digest(), place)
        block = torch.from_numpy(rows).to(device, torch.float64)
        total = torch.full((high - low,), -torch.inf, dtype=torch.float64, device=device)
        for start, stop in spans(range(len(queries)), _BANK_ROWS):
            product = torch.from_numpy(queries.read(start, stop)).to(device, torch.float64) @ block.T
            total = torch.logaddexp(total, torch.logsumexp(product.mul_(beta), dim=0))
        terms[low:high] = total.cpu() / beta
    terms = terms[torch.from_numpy(first_equal)]
    median = terms.median()
    terms -= median
    terms[terms.abs() <= _ROUNDING * max(1.0, abs(float(median)))] = 0.0
    return terms.to(torch.float32).numpy()


def _where_hit(bank_hits: Ints, corrected: DirectionRanks, plain: DirectionRanks) -> DirectionRanks:
    """The corrected ranks of the queries whose first hit is a first hit of the bank, the plain ranks of the others."""
    is_corrected = np.isin(plain.hits[:, 0], bank_hits)
    pair, row = is_corrected[plain.query], is_corrected[:, None]
    return replace(
        plain,
        n_greater=np.where(pair, corrected.n_greater, plain.n_greater),
        n_equal=np.where(pair, corrected.n_equal, plain.n_equal),
        score=np.where(pair, corrected.score, plain.score),
        hits=np.where(row, corrected.hits, plain.hits),
        hit_scores=np.where(row, corrected.hit_scores, plain.hit_scores),
    )
