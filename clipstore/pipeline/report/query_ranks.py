"""The queries of a report one by one: their ranks, failures and first hits, and the map of their vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.errors import ClipstoreError
from clipstore.pipeline.report.embedding_map import embedding_map
from clipstore.pipeline.report.items import NO_LIMIT, ReportItems
from clipstore.pipeline.report.selection import ReportSplit
from clipstore.progress import Progress
from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.store.evaluations import reranked_name

SHOWN_HITS = 5  # of each query

# The kinds of the query and of the items that are ranked.
ITEM_KINDS = {"image_to_text": ("image", "caption"), "text_to_image": ("caption", "image")}

Hit = tuple[int, float, bool]  # catalog id, score, whether it is a positive


@dataclass(frozen=True, kw_only=True)
class QueryRank:
    """The rank of a query's best positive under one model; `kind` and `detail` of a failure, else None."""

    rank: float
    positive_id: int
    kind: str | None
    detail: str | None


class SplitRanks:
    """All queries of a split.

    Attributes:
        commands: the commands that print the ranks.
        queries: by direction, then by (query id, id of its own caption or 0), then by model. Only under paired-rows an
            image has several queries, one for each caption.
    """

    def __init__(self, split: ReportSplit) -> None:
        result = split.query("ranks", limit=NO_LIMIT)
        paired = PROTOCOLS[split.options.protocol].query_per_pair
        self.commands = result.commands
        self.queries: dict[str, dict[tuple[int, int], dict[str, QueryRank]]] = {}
        for direction in ITEM_KINDS:
            queries = self.queries[direction] = {}
            rows = _rows(result.table, direction, "query_id", "model", "rank", "wanted_id", "kind", "detail")
            for query, model, rank, positive, kind, detail in rows:
                query_rank = QueryRank(rank=rank, positive_id=positive, kind=kind, detail=detail)
                queries.setdefault((query, positive if paired else 0), {})[model] = query_rank


def failed_queries(split: ReportSplit, items: ReportItems, ranks: SplitRanks) -> Row:
    """The queries that at least one model failed, by direction, in columns.

    For each query: its index ("asked"), and for each model its rank, the expected item ("wanted"), the kind of failure,
    and the first hits.
    """
    hits = split.query("retrieved", k=SHOWN_HITS, limit=NO_LIMIT)
    return {
        "commands": [*ranks.commands, *hits.commands],
        **{direction: _failed_queries(split, items, ranks, hits.table, direction) for direction in ITEM_KINDS},
    }


def _failed_queries(split: ReportSplit, items: ReportItems, ranks: SplitRanks, hits: pa.Table, direction: str) -> Row:
    query_kind, item_kind = ITEM_KINDS[direction]
    failed = {
        query: by_model
        for query, by_model in ranks.queries[direction].items()
        if any(query_rank.rank > 1 for query_rank in by_model.values())
    }
    hits_of: dict[tuple[str, int], list[Hit]] = {}
    for model, query, *hit in _rows(hits, direction, "model", "query_id", "item_id", "score", "correct"):
        hits_of.setdefault((model, query), []).append((hit[0], hit[1], hit[2]))
    return {
        "asked": items.indices(query_kind, (query for query, _ in failed)),
        "models": [
            {
                **_rank_columns(items, item_kind, [by_model.get(model) for by_model in failed.values()]),
                **_hit_columns(items, item_kind, [hits_of.get((model, query), []) for query, _ in failed]),
            }
            for model in split.models
        ],
    }


def _rank_columns(items: ReportItems, kind: str, ranks: Sequence[QueryRank | None]) -> Row:
    """The results of one model for each query; None: not one of its queries."""
    return {
        "rank": [round(row.rank, 2) if row else None for row in ranks],
        "wanted": items.indices(kind, (row.positive_id if row else None for row in ranks)),
        "kind": [row.kind if row else None for row in ranks],
        "detail": [row.detail if row else None for row in ranks],
    }


def _hit_columns(items: ReportItems, kind: str, hits: Sequence[list[Hit]]) -> Row:
    """The first hits of one model for each query."""
    return {
        "hits": [items.indices(kind, (item for item, _, _ in query_hits)) for query_hits in hits],
        "scores": [[round(score, 3) for _, score, _ in query_hits] for query_hits in hits],
        "correct": [[int(correct) for _, _, correct in query_hits] for query_hits in hits],
    }


def _rows(table: pa.Table, direction: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows of one direction, as tuples of some columns."""
    selected = table.filter(pc.equal(table["direction"], direction))
    return zip(*(selected[name].to_pylist() for name in columns), strict=True)


def maps(split: ReportSplit, items: ReportItems, ranks: SplitRanks, method: str, on_progress: Progress) -> Row:
    """Each model's vectors projected to a plane, with the rank of each item as a query; or the reason why not."""
    models: list[Row] = []
    points: dict[str, list[Row]] = {}
    for model in split.models:
        reranked = reranked_name(split.store, model)
        source = reranked[0] if reranked else model  # a reranked evaluation has the vectors of its first stage
        try:
            if source not in points:
                projection = embedding_map(split.store, source, split.split, method=method, on_progress=on_progress)
                points[source] = projection["points"]
        except ClipstoreError as error:
            return {"reason": f"There is no map: {error}", "models": []}
        models.append({"model": model, **_map_columns(points[source], items, ranks, model)})
    return {"commands": ranks.commands, "method": method, "models": models}


def _map_columns(points: Sequence[Row], items: ReportItems, ranks: SplitRanks, model: str) -> Row:
    """The points of one model by kind, in columns."""
    columns = {}
    for direction, (kind, _) in ITEM_KINDS.items():
        own = [point for point in points if point["kind"] == kind]
        best: dict[int, float] = {}
        for (query, _), by_model in ranks.queries[direction].items():
            if model in by_model:
                best[query] = min(by_model[model].rank, best.get(query, math.inf))
        columns[kind] = {
            "item": items.indices(kind, (point["id"] for point in own)),
            "x": [round(point["x"], 3) for point in own],
            "y": [round(point["y"], 3) for point in own],
            "rank": [best.get(point["id"]) for point in own],
        }
    return columns
