"""Exact ranks of image-text pairs in both directions, from vectors and pairs: no files, no models, no catalog."""

from clipstore.ranking.blocks import BadRowError, Side
from clipstore.ranking.merge import DirectionRanks, Merge, Ranks
from clipstore.ranking.parts import Part, PartRanks, RankSettings, divide, rank_part
from clipstore.ranking.prepared import LastImages
from clipstore.ranking.query_bank import Bank, normalised_ranks
from clipstore.ranking.ranks import rank_pairs, score_targets
from clipstore.ranking.rerank import rerank
from clipstore.ranking.targets import Targets, scoring_digest

__all__ = [
    "BadRowError",
    "Bank",
    "DirectionRanks",
    "LastImages",
    "Merge",
    "Part",
    "PartRanks",
    "RankSettings",
    "Ranks",
    "Side",
    "Targets",
    "divide",
    "normalised_ranks",
    "rank_pairs",
    "rank_part",
    "rerank",
    "score_targets",
    "scoring_digest",
]
