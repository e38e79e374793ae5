"""The result of `clipstore retrieve`: the hits of all models by query, and the queries that failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
from PIL import Image

from clipstore.pipeline.retrieve.queries import Query
from clipstore.pipeline.retrieve.search import ModelHits
from clipstore.pipeline.thumbnails import thumbnail
from clipstore.records import Row
from clipstore.reporting.panel import THUMBNAIL_SIDE, shown_queries
from clipstore.store.layout import Store, split_id


def query_rows(store: Store, split: str, queries: Sequence[Query], results: Sequence[ModelHits]) -> list[Row]:
    """The queries that at least one model encoded, each with the hits of all models.

    A hit is right if it belongs to an image of the split that the query is of (`in_split`); None: there is no such
    image, so that right and wrong are unknown.
    """
    rows = []
    for query, images in zip(queries, _images_of_queries(store, split, queries), strict=True):
        ids = {image["image_id"] for image in images}
        answers = [
            {
                "model": result.model.name,
                "cut": result.cut.get(query, False),
                "hits": [hit | {"right": hit["image_id"] in ids if ids else None} for hit in result.hits[query]],
            }
            for result in results
            if query in result.hits
        ]
        if answers:
            in_split = [image["source_id"] for image in images]
            rows.append({"query": query.name, "kind": query.kind, "in_split": in_split, "answers": answers})
    return rows


def _images_of_queries(store: Store, split: str, queries: Sequence[Query]) -> list[list[Row]]:
    """The images of the split that each query is of: those with its bytes, or with its text as a caption."""
    table = pa.table(
        {
            "number": pa.array(range(len(queries)), pa.int64()),
            "content": pa.array([query.content for query in queries], pa.string()),
            "text": pa.array([query.name if query.kind == "sentence" else None for query in queries], pa.string()),
        }
    )
    images: list[list[Row]] = [[] for _ in queries]
    with store.catalog.read() as session:
        session.stage(query_items=table)
        for row in session.rows("retrieve/images_of_queries", split_id=split_id(session, split)):
            images[row.pop("number")].append(row)
    return images


def failure_rows(
    queries: Sequence[Query], unreadable: Iterable[tuple[Query, str]], results: Sequence[ModelHits]
) -> list[Row]:
    """The queries that failed, in the order given, each with the reason and the models for which it failed."""
    failures = [(query, reason, result.model.name) for query, reason in unreadable for result in results]
    failures += [(query, reason, result.model.name) for result in results for query, reason in result.failures.items()]
    models: dict[tuple[str, str], list[str]] = {}
    for query, reason, model in failures:
        models.setdefault((query.name, reason), []).append(model)
    order = {query.name: number for number, query in enumerate(queries)}
    return [
        {"query": query, "reason": reason, "models": names}
        for (query, reason), names in sorted(models.items(), key=lambda item: order[item[0][0]])
    ]


def panel_thumbnails(result: Row, queries: Sequence[Query]) -> dict[str, Image.Image]:
    """The thumbnails that a panel shows, by the name of the query or the path of the hit."""
    query_paths = {query.name: query.path for query in queries if query.path}
    paths: dict[str, Path] = {}
    for query in shown_queries(result):
        if query["query"] in query_paths:
            paths[query["query"]] = query_paths[query["query"]]
        paths |= {hit["photo"]: Path(hit["photo"]) for answer in query["answers"] for hit in answer["hits"]}
    with ThreadPoolExecutor() as pool:
        images = pool.map(partial(thumbnail, side=THUMBNAIL_SIDE), paths.values())
        return {name: image for name, image in zip(paths, images, strict=True) if image}
