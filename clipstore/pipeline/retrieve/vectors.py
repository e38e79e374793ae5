"""The vectors of queries: stored ones, else encoded as the stored vectors of the model were."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipstore.device import checked_device
from clipstore.encoders.fingerprint_inputs import longest_text
from clipstore.errors import ModelError
from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import EncodeSettings
from clipstore.pipeline.retrieve.queries import Query
from clipstore.progress import Progress, progress_counter
from clipstore.records import ITEM_KIND, Model, PlanSource, ShardPlan, Tower
from clipstore.shards import normalize
from clipstore.store.gallery import Gallery
from clipstore.store.layout import Store
from clipstore.store.probes import check_probes
from clipstore.store.registry import gather_rows, registered_shards
from clipstore.store.storage import shard_storage
from clipstore.store.vectors import EmbeddedItems

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder

_SOURCE: dict[str, PlanSource] = {"image": "image_files", "sentence": "texts"}


@dataclass(frozen=True, kw_only=True)
class QueryBatch:
    """The queries of one kind, as one model encodes them.

    Attributes:
        kind: "image" or "sentence".
        queries: the queries.
        contents: the content key of each query.
        sources: what the encoder reads for each query: a path, or the text after cleaning and prompt.
        tower: the tower that encodes them.
        dtype: the data type in which the vectors of that tower are stored.
        gallery: the items of the other kind, which are ranked.
    """

    kind: str
    queries: list[Query]
    contents: list[str]
    sources: list[str]
    tower: Tower
    dtype: str
    gallery: EmbeddedItems


@dataclass(kw_only=True)
class QueryVectors:
    """Normalised vectors of one tower by content key, and the reasons why other contents have none."""

    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


VectorCache = dict[str, QueryVectors]  # by the fingerprint of a tower, which several models may share


def query_batches(store: Store, model: Model, queries: Sequence[Query], gallery: Gallery) -> list[QueryBatch]:
    """The image queries and the text queries as a model reads them; a kind without queries has no batch."""
    batches = []
    if images := [query for query in queries if query.kind == "image"]:
        batches.append(
            QueryBatch(
                kind="image",
                queries=images,
                contents=[str(query.content) for query in images],
                sources=[str(query.path) for query in images],
                tower=gallery.images.tower,
                dtype=str(gallery.images.vectors.dtype),
                gallery=gallery.texts,
            )
        )
    if texts := [query for query in queries if query.kind == "sentence"]:
        names = [query.name for query in texts]
        with store.catalog.read() as session:
            session.stage(query_texts=pa.table({"number": range(len(names)), "query": names}))
            table = session.table("retrieve/model_texts", prompt=model.prompt, clean=model.clean)
        batches.append(
            QueryBatch(
                kind="sentence",
                queries=texts,
                contents=table["content"].to_pylist(),
                sources=table["text"].to_pylist(),
                tower=gallery.texts.tower,
                dtype=str(gallery.texts.vectors.dtype),
                gallery=gallery.images,
            )
        )
    return batches


class QueryEncoder:
    """Finds or computes the vectors of one model's queries. The model is loaded when a vector is missing."""

    def __init__(self, store: Store, model: Model, cache: VectorCache, memory: int, device: str | None) -> None:
        self._store, self._model, self._cache = store, model, cache
        self._memory, self._device = memory, device
        self._loaded: dict[str, Encoder] = {}  # by precision

    def encode(self, batch: QueryBatch, on_progress: Progress) -> QueryVectors:
        """The vectors of a batch, and of what the tower encoded before."""
        results = self._cache.setdefault(batch.tower.fingerprint, QueryVectors())
        sources = dict(zip(batch.contents, batch.sources, strict=True))
        known = results.vectors.keys() | results.failures.keys()
        results.vectors |= self._stored(batch.tower, [content for content in sources if content not in known])
        known = results.vectors.keys() | results.failures.keys()
        missing = {content: source for content, source in sources.items() if content not in known}
        if missing:
            plan = ShardPlan(
                tower=batch.tower,
                source=_SOURCE[batch.kind],
                contents=list(missing),
                sources=list(missing.values()),
                rows=[],
            )
            rows = encode_rows(plan, self._settings(batch.tower, len(missing), on_progress))
            vectors = normalize(rows.vectors, batch.dtype).astype(np.float32)
            results.vectors |= dict(zip(rows.contents, vectors, strict=True))
            results.failures |= rows.failures
        return results

    def _stored(self, tower: Tower, contents: list[str]) -> dict[str, NDArray[np.float32]]:
        """The stored vectors among some contents."""
        with self._store.catalog.read() as session:
            session.stage(query_contents=pa.table({"content": pa.array(contents, pa.string())}))
            table = session.table("retrieve/stored_vectors", fingerprint=tower.fingerprint)
            registered = registered_shards(session, self._store, pc.unique(table["file"]).to_pylist())
        if not table.num_rows:
            return {}
        vectors = gather_rows(registered, table).astype(np.float32)
        return dict(zip(table["content"].to_pylist(), vectors, strict=True))

    def _settings(self, tower: Tower, count: int, on_progress: Progress) -> EncodeSettings:
        encoder = self._encoder(tower)
        return EncodeSettings(
            storage=shard_storage(self._store),
            model=self._model,
            encoder=encoder,
            batch_tokens=encoder.batch_tokens(tower.tower, self._memory - encoder.weight_bytes),
            on_progress=progress_counter(on_progress, f"{self._model.name}: query {ITEM_KIND[tower.tower]}", count),
        )

    def _encoder(self, tower: Tower) -> Encoder:
        """The model in the precision of the tower's stored vectors, checked against the tower's probe."""
        if tower.precision not in self._loaded:
            from clipstore.encoders.encoder import Encoder
            from clipstore.encoders.loading import load_model

            device = checked_device(self._device)
            self._loaded[tower.precision] = Encoder(load_model(self._model), precision=tower.precision, device=device)
        check_probes(self._store, self._model.name, [tower], self._loaded[tower.precision])
        return self._loaded[tower.precision]


def cut_texts(model: Model, batch: QueryBatch) -> dict[Query, bool | None]:
    """Whether each text is longer than the model reads, so that its end is ignored; None: model files missing."""
    try:
        longest = longest_text(model)
        # A token is at least one byte of the normalised text, so that only texts with many bytes need the tokenizer.
        sizes = [
            max(len(unicodedata.normalize(form, text).lower().encode()) for form in ("NFC", "NFKC")) + 2
            for text in batch.sources
        ]
        candidates = [text for text, size in zip(batch.sources, sizes, strict=True) if size > longest]
        cut: dict[str, bool] = {}
        if candidates:
            from clipstore.encoders.tokenization import overlong_texts

            cut = dict(zip(candidates, overlong_texts(model, candidates), strict=True))
    except ModelError:  # stored vectors need no model files
        return dict.fromkeys(batch.queries)
    return {query: cut.get(text, False) for query, text in zip(batch.queries, batch.sources, strict=True)}
