"""`clipstore retrieve`: exact search of a split with images and texts of any origin, by several models."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from clipstore.catalog import Session
from clipstore.errors import ModelError, QueryError
from clipstore.pipeline.evaluate.provenance import gallery_provenance
from clipstore.pipeline.retrieve.images import load_images
from clipstore.pipeline.retrieve.options import RetrieveOptions
from clipstore.pipeline.retrieve.queries import Query
from clipstore.pipeline.retrieve.results import failure_rows, panel_thumbnails, query_rows
from clipstore.pipeline.retrieve.search import search
from clipstore.pipeline.retrieve.vectors import VectorCache
from clipstore.records import IMPORTED, Model, Row
from clipstore.store.gallery import Gallery, find_gallery
from clipstore.store.layout import Store
from clipstore.store.models import find_model


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """The result of a search.

    Attributes:
        result: what `clipstore retrieve --json` prints.
        thumbnails: by query name or path of a hit; an image file that is missing or unreadable has none.
    """

    result: Row
    thumbnails: dict[str, Image.Image]


def retrieve(
    store: Store, queries: Sequence[Query], models: Iterable[str], split: str, options: RetrieveOptions
) -> Retrieval:
    """The captions of a split for images, and its images for texts, by each model's stored vectors.

    A query with a stored vector (by content key) is not encoded again; others are encoded as the model's stored
    vectors were. Queries that cannot be read are reported in "failures".

    Raises:
        NotFoundError: a model or the split does not exist.
        VectorError: items have no vectors yet (and not `partial`), or the memory is too small.
        ModelError: a model cannot be loaded, or its vectors were imported.
        QueryError: all queries failed.
        ShardError: a shard cannot be read, or changed during the search.
    """
    with store.catalog.read() as session:
        encoding_models = [_encoding_model(store, name) for name in dict.fromkeys(models)]
        galleries = {
            model: find_gallery(store, session, model, split, partial=options.partial) for model in encoding_models
        }
        model_rows = [
            {"model": model.name, "measured_on": _provenance(session, model, split, gallery)}
            for model, gallery in galleries.items()
        ]
    cache: VectorCache = {}
    with tempfile.TemporaryDirectory(prefix="clipstore-retrieve-") as folder:
        loaded = load_images(queries, Path(folder), options.downloads)
        usable = [query for query, reason in loaded if not reason]
        results = [search(store, model, gallery, usable, options, cache) for model, gallery in galleries.items()]
        failures = failure_rows(queries, [(query, reason) for query, reason in loaded if reason], results)
        result: Row = {
            "split": split,
            "top": options.top,
            "models": model_rows,
            "queries": query_rows(store, split, usable, results),
            "failures": failures,
            "warnings": [line for gallery in galleries.values() for line in gallery.images.warnings],
        }
        if not result["queries"]:
            first = failures[0]
            message = f"none of the {len(queries)} queries can be used; {first['query']}: {first['reason']}"
            raise QueryError(message)
        thumbnails = panel_thumbnails(result, usable) if options.thumbnails else {}
    return Retrieval(result=result, thumbnails=thumbnails)


def _encoding_model(store: Store, name: str) -> Model:
    model = find_model(store, name)
    if model.family == IMPORTED:
        message = (
            f"the vectors of {name} were imported: clipstore has no encoder for its queries; name a model that "
            "clipstore embeds with"
        )
        raise ModelError(message)
    return model


def _provenance(session: Session, model: Model, split: str, gallery: Gallery) -> Row:
    """The provenance of a model's gallery."""
    provenance = gallery_provenance(session, model, split, gallery)
    return {"split": split} | {
        key: value for key, value in asdict(provenance).items() if key not in ("model_id", "split_id")
    }
