"""Exact ranks of image-text pairs in both directions. Knows vectors and pairs; no files, no models, no catalog."""

from clipstore.ranking.blocks import BadRowError
from clipstore.ranking.ranks import DirectionRanks, Ranks, rank_pairs

__all__ = ["BadRowError", "DirectionRanks", "Ranks", "rank_pairs"]
