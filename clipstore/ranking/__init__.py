"""Exact ranks of image-text pairs in both directions, from vectors and pairs: no files, no models, no catalog."""

from clipstore.ranking.blocks import BadRowError
from clipstore.ranking.query_bank import Bank, normalised_ranks
from clipstore.ranking.ranks import DirectionRanks, Ranks, rank_pairs
from clipstore.ranking.rerank import rerank

__all__ = ["BadRowError", "Bank", "DirectionRanks", "Ranks", "normalised_ranks", "rank_pairs", "rerank"]
