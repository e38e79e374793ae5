"""The exact hits of queries in one model's gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipstore.device import checked_device
from clipstore.pipeline.retrieve.options import RetrieveOptions
from clipstore.pipeline.retrieve.queries import Query
from clipstore.pipeline.retrieve.vectors import QueryBatch, QueryEncoder, VectorCache, cut_texts, query_batches
from clipstore.records import Model, Row
from clipstore.store.gallery import Gallery
from clipstore.store.layout import Store
from clipstore.store.vectors import bad_row_error


@dataclass(kw_only=True)
class ModelHits:
    """What one model retrieves.

    Attributes:
        hits: of each query that the model can encode, best first.
        cut: whether each text is longer than the model reads (None: unknown).
        failures: the reasons why the model cannot encode the other queries.
    """

    model: Model
    hits: dict[Query, list[Row]] = field(default_factory=dict)
    cut: dict[Query, bool | None] = field(default_factory=dict)
    failures: dict[Query, str] = field(default_factory=dict)


def search(
    store: Store,
    model: Model,
    gallery: Gallery,
    queries: Sequence[Query],
    options: RetrieveOptions,
    cache: VectorCache,
) -> ModelHits:
    """The hits of the queries in a model's gallery: captions for images, images for texts.

    `cache` has the query vectors of the models that were searched before.
    """
    results = ModelHits(model=model)
    encoder = QueryEncoder(store, model, cache, options.memory, options.device)
    for batch in query_batches(store, model, queries, gallery):
        encoded = encoder.encode(batch, options.on_progress)
        if batch.kind == "sentence":
            results.cut |= cut_texts(model, batch)
        items = list(zip(batch.queries, batch.contents, strict=True))
        results.failures |= {
            query: encoded.failures[content] for query, content in items if content not in encoded.vectors
        }
        vectors = {query: encoded.vectors[content] for query, content in items if content in encoded.vectors}
        if vectors:
            results.hits |= _hits(store, batch, vectors, options)
    return results


def _hits(
    store: Store, batch: QueryBatch, vectors: dict[Query, NDArray[np.float32]], options: RetrieveOptions
) -> dict[Query, list[Row]]:
    rows, scores = _top_rows(batch, np.stack(list(vectors.values())), options)
    items = _describe_items(store, batch, np.unique(rows))
    return {
        query: [
            {"position": position, **items[row], "score": score}
            for position, (row, score) in enumerate(zip(query_rows, query_scores, strict=True), 1)
        ]
        for query, query_rows, query_scores in zip(vectors, rows.tolist(), scores.tolist(), strict=True)
    }


def _top_rows(
    batch: QueryBatch, vectors: NDArray[np.float32], options: RetrieveOptions
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The gallery rows (Q, k) of the best candidates of query vectors (Q, D), best first, and their scores (Q, k)."""
    # Imported late: errors in the arguments are reported without loading torch.
    from clipstore.ranking import BadRowError, rank_pairs

    gallery, from_image = batch.gallery, batch.kind == "image"
    try:
        ranks = rank_pairs(
            vectors if from_image else gallery.vectors,
            gallery.vectors if from_image else vectors,
            np.empty((0, 2), dtype=np.int64),  # no positive pairs: only hits are needed
            top_k=min(options.top, gallery.table.num_rows),
            memory=options.memory,
            device=checked_device(options.device),
        )
    except BadRowError as error:
        raise bad_row_error(gallery, error.side, error.row) from error
    direction = ranks.image_to_text if from_image else ranks.text_to_image
    return direction.hits, direction.hit_scores


def _describe_items(store: Store, batch: QueryBatch, rows: NDArray[np.int64]) -> dict[int, Row]:
    """The columns of a hit that describe its item, by row of the gallery.

    `item_id` and `image_id` are the catalog's ids; `source_id` and `image_source_id` are the dataset's.
    """
    table = batch.gallery.table.take(pa.array(rows))
    key = "caption_id" if batch.kind == "image" else "image_id"
    with store.catalog.read() as session:
        session.stage(hit_images=table.select(["image_id"]))
        images = {row["image_id"]: row for row in session.rows("retrieve/hit_images")}
        captions: dict[int, str] = {}
        if key == "caption_id":
            session.stage(hit_captions=table.select(["caption_id"]))
            captions = {row["caption_id"]: row["text"] for row in session.rows("retrieve/hit_captions")}
    return {
        row: {
            "item_id": item[key],
            "source_id": item["source_id"],
            "image_id": item["image_id"],
            "image_source_id": images[item["image_id"]]["source_id"],
            "caption": captions.get(item[key]),
            "photo": images[item["image_id"]]["path"],
        }
        for row, item in zip(rows.tolist(), table.to_pylist(), strict=True)
    }
