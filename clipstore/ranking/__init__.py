"""Exact ranks of image-text pairs in both directions. Knows vectors and pairs; no files, no models, no catalog."""

from clipstore.ranking.ranks import DirectionRanks, Ranks, rank_pairs

__all__ = ["DirectionRanks", "Ranks", "rank_pairs"]
