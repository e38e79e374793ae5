"""Order the first candidates of each query by the stored scores of a reranker (`clipstore eval --rerank`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from clipstore.catalog import Session
from clipstore.errors import VectorError
from clipstore.hints import rerank_command
from clipstore.pipeline.evaluate.candidates import PairItems, candidate_codes, direction_ranks
from clipstore.pipeline.evaluate.options import TOP_K, EvalOptions
from clipstore.pipeline.evaluate.tasks import RankingTask
from clipstore.protocols import PROTOCOLS
from clipstore.records import Direction, MatchingHead, Model, Row
from clipstore.store.gallery import Gallery
from clipstore.store.layout import Store
from clipstore.store.matching import current_head
from clipstore.store.models import find_model
from clipstore.store.scores import StoredScores, stored_scores

if TYPE_CHECKING:
    from clipstore.ranking import DirectionRanks, Ranks

NO_RERANKING: Row = dict.fromkeys(
    ("reranker", "rerank_top", "rerank_weight", "rerank_precision", "rerank_fingerprint")
)  # the columns of an evaluation that is not reranked


@dataclass(frozen=True, kw_only=True, eq=False)
class Reranking:
    """How the first candidates of a gallery are ordered again.

    Attributes:
        model: the name of the reranker.
        top: the number of candidates of each query.
        weight: the weight of the first-stage score.
        items: the image files and texts of the gallery.
        command: the command that scores its pairs.
        scores: the stored scores of its pairs; none before `with_scores`.
    """

    model: str
    head: MatchingHead
    top: int
    weight: float
    items: PairItems
    command: str
    scores: StoredScores = field(default_factory=StoredScores.none)

    def with_scores(self, store: Store) -> Reranking:
        """The same with the stored scores. The catalog is not open while their files are read.

        Raises:
            ShardError: a score shard is missing or damaged.
        """
        return replace(self, scores=stored_scores(store, self.head.fingerprint, *self.items.contents))

    def columns(self) -> Row:
        """The columns of `evaluations` that describe it."""
        values = (self.model, self.top, self.weight, self.head.precision, self.head.fingerprint)
        return dict(zip(NO_RERANKING, values, strict=True))

    def apply(self, protocol: str, task: RankingTask, ranks: Ranks) -> Ranks:
        """The ranks of a task in the new order, in the directions of the protocol.

        `ranks` have the hits of `candidates.most_hits`.

        Raises:
            VectorError: a pair has no stored score. The message names the command.
        """
        for direction, first in direction_ranks(PROTOCOLS[protocol], ranks):
            reranked = self._rerank(task, first, direction)
            if direction == "image_to_text":
                ranks = replace(ranks, image_to_text=reranked)
            else:
                ranks = replace(ranks, text_to_image=reranked)
        return ranks

    def _rerank(self, task: RankingTask, first: DirectionRanks, direction: Direction) -> DirectionRanks:
        from clipstore.ranking import rerank

        queries, codes = candidate_codes(self.items, task, first, direction, self.top)
        found = np.where(codes >= 0, self.scores.find(codes), 0)
        missing = len(np.unique(codes[np.isnan(found)]))
        if missing:
            message = (
                f"{missing:,} pairs of the first {self.top:,} candidates have no score of {self.model}: run "
                f"'{self.command}' first"
            )
            raise VectorError(message)
        logits = np.zeros((len(first.hits), codes.shape[1]), dtype=np.float32)  # 0: no query, and not stored
        logits[queries] = found
        return rerank(first, logits, weight=self.weight, top_k=TOP_K)


def find_reranking(
    store: Store, session: Session, model: Model, split: str, gallery: Gallery, options: EvalOptions
) -> Reranking | None:
    """How the gallery of a model is reranked, without the scores; None: it is not.

    Raises:
        NotFoundError: there is no such reranker.
        ModelError: it has no matching head.
        VectorError: it has scored no pair yet, or another model or evaluation has the name of the result.
    """
    if options.rerank is None:
        return None
    reranker, top = find_model(store, options.rerank), options.rerank_top
    chosen: Row = {"protocol": options.protocol, "captions": options.captions}
    command = rerank_command(reranker.name, split, first=model.name, top=top, **chosen)
    head, row = current_head(session, reranker), session.row("model/find", name=reranker.name)
    if head is None or row is None:
        message = f"{reranker.name} has no scores, or has changed since: run '{command}' first"
        raise VectorError(message)
    reranking = Reranking(
        model=reranker.name,
        head=head,
        top=top,
        weight=options.rerank_weight,
        items=PairItems.of(session, gallery, row["model_id"]),
        command=command,
    )
    check_name_is_free(session, model.name, reranking)
    return reranking


def check_name_is_free(session: Session, model: str, reranking: Reranking) -> None:
    """Check that no other model or evaluation has the name of a reranked evaluation.

    Raises:
        VectorError: one has it.
    """
    row = session.row("model/find", name=model)
    key = {"reranker": reranking.model, "top": reranking.top, "weight": reranking.weight}
    label = session.rows("rerank/label", model=model, **key)[0]["label"]
    if session.rows("rerank/name_conflicts", label=label, model_id=row and row["model_id"], reranker=reranking.model):
        message = (
            f"the result would be named {label}, which is the name of another model or evaluation: record one of the "
            "models under another name"
        )
        raise VectorError(message)
