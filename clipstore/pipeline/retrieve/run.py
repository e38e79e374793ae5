"""`clipstore retrieve`: what a split has for photos and sentences of any origin, by models side by side, exactly."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from clipstore import choices, shards
from clipstore.catalog import Session
from clipstore.device import checked_device
from clipstore.encoders.fingerprint_inputs import longest_text
from clipstore.encoders.images import apply_orientation, decode_image
from clipstore.encoders.model_files import locate
from clipstore.errors import ImageError, ModelError, QueryError
from clipstore.files import read_regular
from clipstore.inference.encode import EncodeSettings, encode_rows
from clipstore.pipeline.embed.plan import KIND
from clipstore.pipeline.evaluate.run import gallery_provenance
from clipstore.pipeline.retrieve.queries import Query, looked_at
from clipstore.progress import Progress, no_progress
from clipstore.records import Model, PlanSource, Row, ShardPlan
from clipstore.reporting.panel import PICTURE, shown
from clipstore.shards import normalised
from clipstore.store.layout import Store, split_id
from clipstore.store.models import IMPORTED, find_model
from clipstore.store.probes import check_probes
from clipstore.store.vectors import EmbeddedItems, Gallery, bad_row_error, find_gallery

if TYPE_CHECKING:
    from clipstore.encoders.clip import ClipEncoder

_TOWER = {"image": "image", "sentence": "text"}  # that reads a kind of query
_SOURCE: dict[str, PlanSource] = {"image": "image_files", "sentence": "texts"}

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
_Hits = dict[Query, list[Row]]  # best first


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions:
    """How to retrieve: the best `top` for each query, within `memory` bytes.

    `partial`: from what is embedded so far; `device` None: a CUDA device where there is one, else the CPU;
    with `pictures`, thumbnails for a panel come with the answer.
    """

    top: int = 5
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str | None = None
    pictures: bool = False
    on_progress: Progress = no_progress


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """`told` as `clipstore retrieve --json` prints it, and thumbnails of its photos, by query name and path.

    A photo that has gone since, or cannot be decoded, has no thumbnail.
    """

    told: Row
    pictures: dict[str, Image.Image]


@dataclass(kw_only=True)
class _Vectors:
    """What one tower makes of queries: normalised vectors by content, and why some have none."""

    found: dict[str, Floats] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The queries of one kind as a model reads them.

    `items` are the split's own of the same kind, `gallery` those that are looked for; `sources` paths or texts.
    """

    kind: str
    queries: list[Query]
    contents: list[str]
    sources: list[str]
    items: EmbeddedItems
    gallery: EmbeddedItems


def retrieve(
    store: Store, asked: Sequence[Query], names: Iterable[str], split: str, options: RetrieveOptions
) -> Retrieved:
    """The captions of a split for photos, and its images for sentences, by each model's stored vectors.

    A query that the store has a vector of, by its content, is not embedded again; others go through the model as its
    stored vectors did. What cannot be read is among the "failures".

    Raises:
        NotFoundError: a model or the split has no such name.
        VectorError: items have no vectors yet (and not `partial`), or the memory is too small.
        ModelError: a model cannot be had, or its vectors were imported.
        QueryError: not one query can be used.
        ShardError: a shard cannot be read, or changed meanwhile.
    """
    models = [_encoding_model(store, name) for name in dict.fromkeys(names)]
    with store.catalog.read() as session:
        found = [find_gallery(store, session, model, split, partial=options.partial) for model in models]
        stamps = [_stamp(session, model, split, one) for model, one in zip(models, found, strict=True)]
    with tempfile.TemporaryDirectory(prefix="clipstore-retrieve-") as place:
        looked = looked_at(asked, Path(place))
        usable = [query for query, problem in looked if not problem]
        search = _Search(store, options)
        answers = [search.ask(model, usable, one) for model, one in zip(models, found, strict=True)]
        unread = [(query, model, problem) for query, problem in looked if problem for model in models]
        failures = _failures(asked, [*unread, *search.failures])
        told: Row = {
            "split": split,
            "top": options.top,
            "models": [{"model": model.name, "measured_on": on} for model, on in zip(models, stamps, strict=True)],
            "queries": _joined(store, split, usable, models, answers, search.cut),
            "failures": failures,
            "warnings": [line for one in found for line in one.images.warnings],
        }
        if not told["queries"]:
            first = failures[0]
            message = f"none of the {len(asked)} queries can be used; {first['query']}: {first['reason']}"
            raise QueryError(message)
        return Retrieved(told=told, pictures=_pictures(told, usable) if options.pictures else {})


def _encoding_model(store: Store, name: str) -> Model:
    model = find_model(store, name)
    if model.family == IMPORTED:
        message = (
            f"the vectors of {name} were imported: clipstore has no encoder that makes one of a query; name a model "
            "that it embeds with"
        )
        raise ModelError(message)
    return model


def _stamp(session: Session, model: Model, split: str, found: Gallery) -> Row:
    stamp = gallery_provenance(session, model, split, found)
    return {"split": split} | {key: value for key, value in stamp.items() if key not in ("model_id", "split_id")}


class _Search:
    """Models that are asked one after the other; what one embedded for another's tower is not embedded again."""

    def __init__(self, store: Store, options: RetrieveOptions) -> None:
        self._store, self._options = store, options
        self._made: dict[str, _Vectors] = {}  # by a tower's fingerprint
        self.failures: list[tuple[Query, Model, str]] = []
        self.cut: dict[tuple[Query, str], bool | None] = {}  # by a sentence and a model's name: see _overlong

    def ask(self, model: Model, queries: Sequence[Query], found: Gallery) -> _Hits:
        """The hits of each query that the model can read."""
        loaded: list[ClipEncoder] = []
        hits: _Hits = {}
        for kind in _TOWER:
            own = [query for query in queries if query.kind == kind]
            if own:
                hits |= self._ask(model, self._read(model, kind, own, found), loaded)
        return hits

    def _read(self, model: Model, kind: str, queries: list[Query], found: Gallery) -> _Asked:
        if kind == "image":
            contents, sources = [str(query.content) for query in queries], [str(query.path) for query in queries]
            items, wanted = found.images, found.texts
        else:
            names = [query.name for query in queries]
            with self._store.catalog.read() as session:
                session.stage(asked_sentences=pa.table({"number": range(len(names)), "sentence": names}))
                texts = session.table("retrieve/texts", prompt=model.prompt, clean=model.clean)
            contents, sources = texts["content"].to_pylist(), texts["text"].to_pylist()
            items, wanted = found.texts, found.images
        return _Asked(kind=kind, queries=queries, contents=contents, sources=sources, items=items, gallery=wanted)

    def _ask(self, model: Model, asked: _Asked, loaded: list[ClipEncoder]) -> _Hits:
        vectors = self._vectors(model, asked, loaded)
        if asked.kind == "sentence":
            self.cut |= _overlong(model, asked)
        read = [place for place, content in enumerate(asked.contents) if content in vectors.found]
        for query, content in zip(asked.queries, asked.contents, strict=True):
            if content not in vectors.found:
                self.failures.append((query, model, vectors.failed[content]))
        if not read:
            return {}
        matrix = np.stack([vectors.found[asked.contents[place]] for place in read])
        rows, scores = self._best(asked, matrix)
        described = _described(self._store, asked, rows)
        return {
            asked.queries[place]: [
                {"position": position, **described[row], "score": score}
                for position, (row, score) in enumerate(zip(best, how, strict=True), 1)
            ]
            for place, best, how in zip(read, rows.tolist(), scores.tolist(), strict=True)
        }

    def _best(self, asked: _Asked, matrix: Floats) -> tuple[Ids, NDArray[np.float64]]:
        """The gallery's rows of each query's hits (Q, k), and their scores."""
        # Imported here and not above: what is asked wrongly needs no torch.
        from clipstore.ranking import BadRowError, rank_pairs

        wanted, top = asked.gallery, min(self._options.top, asked.gallery.table.num_rows)
        from_image = asked.kind == "image"
        try:
            ranks = rank_pairs(
                matrix if from_image else wanted.vectors,
                wanted.vectors if from_image else matrix,
                np.empty((0, 2), dtype=np.int64),  # hits alone: nothing has a rank
                top_k=top,
                memory=self._options.memory,
                device=checked_device(self._options.device),
            )
        except BadRowError as error:
            raise bad_row_error(wanted, error) from error
        direction = ranks.image_to_text if from_image else ranks.text_to_image
        return direction.hits, direction.hit_scores

    def _vectors(self, model: Model, asked: _Asked, loaded: list[ClipEncoder]) -> _Vectors:
        """The vectors of queries: stored ones, else made as stored ones are."""
        tower, made = asked.items.tower, self._made.setdefault(asked.items.tower.fingerprint, _Vectors())
        known = made.found.keys() | made.failed.keys()
        new = dict(zip(asked.contents, asked.sources, strict=True))
        made.found |= self._stored(tower.fingerprint, [content for content in new if content not in known])
        left = {content: source for content, source in new.items() if content not in made.found | made.failed}
        if left:
            plan = ShardPlan(
                tower=tower, source=_SOURCE[asked.kind], contents=list(left), sources=list(left.values()), rows=[]
            )
            rows = encode_rows(plan, self._encoding(model, asked, len(left), loaded))
            values = normalised(rows.vectors, str(asked.items.vectors.dtype)).astype(np.float32)
            made.found |= dict(zip(rows.contents, values, strict=True))
            made.failed |= rows.failures
        return made

    def _stored(self, fingerprint: str, contents: list[str]) -> dict[str, Floats]:
        with self._store.catalog.read() as session:
            session.stage(asked_contents=pa.table({"content": pa.array(contents, pa.string())}))
            table = session.table("retrieve/stored", fingerprint=fingerprint)
        if not table.num_rows:
            return {}
        files = table["file"].combine_chunks().dictionary_encode()
        paths = [self._store.root / file for file in files.dictionary.to_pylist()]
        which, rows = (
            column.to_numpy(zero_copy_only=False).astype(np.int64) for column in (files.indices, table["row"])
        )
        return dict(
            zip(table["content"].to_pylist(), shards.gather(paths, which, rows).astype(np.float32), strict=True)
        )

    def _encoding(self, model: Model, asked: _Asked, count: int, loaded: list[ClipEncoder]) -> EncodeSettings:
        tower = asked.items.tower
        if not loaded:
            from clipstore.encoders.clip import ClipEncoder
            from clipstore.encoders.loading import load_clip

            device = checked_device(self._options.device)
            loaded.append(ClipEncoder(load_clip(model), precision=tower.precision, device=device))
            check_probes(self._store, model.name, [tower], loaded[0])
        encoder, done, lock = loaded[0], 0, Lock()

        def tried(items: int) -> None:
            nonlocal done
            with lock:
                done += items
                self._options.on_progress(f"{model.name}: {KIND[tower.tower]} to ask with", done, count)

        return EncodeSettings(
            folder=self._store.shards,
            model=model,
            encoder=encoder,
            batch_tokens=encoder.batch_tokens(tower.tower, self._options.memory - encoder.weight_bytes),
            on_progress=tried,
        )


def _overlong(model: Model, asked: _Asked) -> dict[tuple[Query, str], bool | None]:
    """Whether a model reads a part of each sentence alone, embedded now or before; None: its files are gone."""
    try:
        longest = longest_text(locate(model.base))
        # A token is a byte at least, so that few sentences need the tokenizer.
        sizes = [len(unicodedata.normalize("NFC", text).lower().encode()) + 2 for text in asked.sources]
        doubtful = [text for text, size in zip(asked.sources, sizes, strict=True) if size > longest]
        cut: dict[str, bool] = {}
        if doubtful:
            from clipstore.encoders.tokenization import overlong_texts

            cut = dict(zip(doubtful, overlong_texts(model, doubtful), strict=True))
    except ModelError:  # stored vectors suffice
        return {(query, model.name): None for query in asked.queries}
    return {(query, model.name): cut.get(text, False) for query, text in zip(asked.queries, asked.sources, strict=True)}


def _described(store: Store, asked: _Asked, rows: Ids) -> dict[int, Row]:
    """What a hit says of an item, by its row in the gallery: caption, photo, and ids of the item and of its image.

    `item_id` and `image_id` are the catalog's; `source_id` and `image_source_id` are the data set's own.
    """
    wanted = np.unique(rows)
    table = asked.gallery.table.take(pa.array(wanted))
    with store.catalog.read() as session:
        session.stage(found_images=table.select(["image_id"]))
        images = {row["image_id"]: row for row in session.rows("retrieve/image_files")}
        captions: dict[int, str] = {}
        if asked.kind == "image":
            session.stage(found_captions=table.select(["caption_id"]))
            captions = {row["caption_id"]: row["text"] for row in session.rows("retrieve/captions")}
    key = "caption_id" if asked.kind == "image" else "image_id"
    return {
        place: {
            "item_id": item[key],
            "source_id": item["source_id"],
            "image_id": item["image_id"],
            "image_source_id": images[item["image_id"]]["source_id"],
            "caption": captions.get(item[key]),
            "photo": images[item["image_id"]]["path"],
        }
        for place, item in zip(wanted.tolist(), table.to_pylist(), strict=True)
    }


def _joined(
    store: Store,
    split: str,
    queries: Sequence[Query],
    models: Sequence[Model],
    answers: Sequence[_Hits],
    cut: Mapping[tuple[Query, str], bool | None],
) -> list[Row]:
    """The queries that a model answered, each with the answers of all models, and which of the hits are right.

    Cut is a sentence that is longer than the model reads. Right are the captions of an image with the photo's very
    bytes, and the images that have the sentence for a caption; where the split has none, nobody knows.
    """
    own = _own_images(store, split, queries)
    told = []
    for query, images in zip(queries, own, strict=True):
        ids = {image["image_id"] for image in images}
        told.append(
            {
                "query": query.name,
                "kind": query.kind,
                "in_split": [image["source_id"] for image in images],
                "answers": [
                    {
                        "model": model.name,
                        "cut": cut.get((query, model.name), False),
                        "hits": [hit | {"right": hit["image_id"] in ids if ids else None} for hit in hits[query]],
                    }
                    for model, hits in zip(models, answers, strict=True)
                    if query in hits
                ],
            }
        )
    return [row for row in told if row["answers"]]


def _own_images(store: Store, split: str, queries: Sequence[Query]) -> list[list[Row]]:
    """The images of the split that each query is of."""
    asked = pa.table(
        {
            "number": pa.array(range(len(queries)), pa.int64()),
            "content": pa.array([query.content for query in queries], pa.string()),
            "sentence": pa.array([query.name if query.kind == "sentence" else None for query in queries], pa.string()),
        }
    )
    own: list[list[Row]] = [[] for _ in queries]
    with store.catalog.read() as session:
        session.stage(asked_queries=asked)
        for row in session.rows("retrieve/own_images", split_id=split_id(session, split)):
            own[row.pop("number")].append(row)
    return own


def _failures(asked: Sequence[Query], failures: Iterable[tuple[Query, Model, str]]) -> list[Row]:
    """Queries that cannot be used, in the order asked, each with the models that cannot use it, and why."""
    models: dict[tuple[str, str], list[str]] = {}
    for query, model, reason in failures:
        models.setdefault((query.name, reason), []).append(model.name)
    place = {query.name: number for number, query in enumerate(asked)}
    return [
        {"query": query, "reason": reason, "models": names}
        for (query, reason), names in sorted(models.items(), key=lambda item: place[item[0][0]])
    ]


def _pictures(told: Row, queries: Sequence[Query]) -> dict[str, Image.Image]:
    """Thumbnails of the photos that a panel shows."""
    asked = {query.name: query.path for query in queries if query.path}
    paths: dict[str, Path] = {}
    for row in shown(told):
        if row["query"] in asked:
            paths[row["query"]] = asked[row["query"]]
        paths |= {hit["photo"]: Path(hit["photo"]) for answer in row["answers"] for hit in answer["hits"]}
    with ThreadPoolExecutor() as pool:
        thumbnails = pool.map(_thumbnail, paths.values())
        return {name: picture for name, picture in zip(paths, thumbnails, strict=True) if picture}


def _thumbnail(path: Path) -> Image.Image | None:
    try:
        photo = read_regular(path)
        picture = apply_orientation(decode_image(photo), photo)
    except (OSError, ImageError):
        return None
    picture.thumbnail((PICTURE, PICTURE))
    return picture
