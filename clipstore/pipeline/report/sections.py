"""The sections of a report, one function each, as plain data.

Every number comes from a named query, and each section carries the commands that give its numbers: the very questions
that were asked for it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.errors import ClipstoreError
from clipstore.pipeline.compare import CompareOptions, compare
from clipstore.pipeline.query import run_query
from clipstore.pipeline.report.embedding_map import embedding_map
from clipstore.pipeline.stats import split_stats
from clipstore.progress import Progress
from clipstore.records import CaptionSet, ProtocolName, Row
from clipstore.reporting.comparison import basis
from clipstore.reporting.metrics import gallery_words, notes, query_words, vector_words
from clipstore.reporting.tables import total_rows
from clipstore.store.layout import Store

FIRST = 5  # hits of a query that the page shows

_HUBS = 6  # items of a model and direction
_PROBLEMS = 200  # items that failed
_ALL = 10**9  # no limit, to a query that has one


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer to a question, and the commands that ask it."""

    commands: list[str]
    table: pa.Table

    def rows(self) -> Row:
        """As a section of the page has it."""
        return {"commands": self.commands, "rows": self.table.to_pylist()}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A split and the models that were measured on it.

    `named`: the caller named the models, so questions do too. `choice` says which evaluations, as parameters of the
    named queries; `kept` are all evaluations of the split and models, as `clipstore eval --json` has them.
    """

    store: Store
    split: str
    models: tuple[str, ...]
    named: bool
    choice: Mapping[str, str]
    caption_set: str
    kept: Sequence[Row]

    @property
    def protocol(self) -> ProtocolName:
        """The protocol that was chosen."""
        return cast("ProtocolName", self.choice.get("protocol", "standard"))

    def ask(self, name: str, **given: object) -> Answer:
        """A named question about this subject."""
        return self._each_model(name, {**self.choice, **given})

    def ask_split(self, name: str, **given: object) -> Answer:
        """A named question about all protocols of this subject."""
        return self._each_model(name, {"split": self.split, **given})

    def _each_model(self, name: str, given: Mapping[str, object]) -> Answer:
        models = [{"model": model} for model in self.models] if self.named else [{}]
        return joined(ask(self.store, name, {**model, **given}) for model in models)


def ask(store: Store, name: str, parameters: Mapping[str, object]) -> Answer:
    """A named question, and the command that asks it."""
    given = [f"{key}={value}" for key, value in parameters.items()]
    command = shlex.join(["clipstore", "query", name, *(word for pair in given for word in ("-p", pair))])
    return Answer(commands=[command], table=run_query(store, name, given))


def joined(answers: Iterable[Answer]) -> Answer:
    """Several answers to one question as one."""
    told = list(answers)
    return Answer(
        commands=[command for answer in told for command in answer.commands],
        table=pa.concat_tables([answer.table for answer in told], promote_options="permissive"),
    )


class Items:
    """The images and captions of all splits of a report; elsewhere in it they go by their places here."""

    def __init__(self) -> None:
        self.images: dict[str, list[Any]] = {"id": [], "file": [], "categories": []}
        self.captions: dict[str, list[Any]] = {"id": [], "image": [], "text": []}
        self.paths: list[Path] = []
        self._image_places: dict[int, int] = {}
        self._caption_places: dict[int, int] = {}

    def add(self, subject: Subject) -> None:
        """Take up the images and captions of a subject's split that are not here yet."""
        split = {"split": subject.split, "limit": _ALL}
        for row in ask(subject.store, "images", split).table.to_pylist():
            if row["image_id"] not in self._image_places:
                self._image_places[row["image_id"]] = len(self.paths)
                self.paths.append(Path(row["path"]))
                _append(self.images, row["image_id"], row["file_name"], row["categories"])
        for row in ask(subject.store, "captions", split).table.to_pylist():
            if row["caption_id"] not in self._caption_places:
                self._caption_places[row["caption_id"]] = len(self._caption_places)
                _append(self.captions, row["caption_id"], self._image_places[row["image_id"]], row["text"])

    def places(self, kind: str, ids: Iterable[int | None]) -> list[int | None]:
        """Where items ("image" or "caption") of these catalog ids stand; None: not here."""
        places = self._image_places if kind == "image" else self._caption_places
        return [None if one is None else places.get(one) for one in ids]


def _append(columns: dict[str, list[Any]], *values: object) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


# ---- metrics ----


def metrics(subject: Subject) -> Row:
    """The metrics under every protocol, and what each was measured on."""
    return {
        **subject.ask_split("metrics").rows(),
        "seen": subject.ask_split("seen").rows(),
        "stamps": [_stamp(evaluation) for evaluation in subject.kept],
    }


def _stamp(evaluation: Row) -> Row:
    on = evaluation["measured_on"]
    return {
        "model": evaluation["model"],
        "protocol": evaluation["protocol"],
        "caption_set": on["caption_set"],
        "unseen": on["unseen"],
        "gallery_digest": on["gallery_digest"],
        "gallery": f"{gallery_words(on)}; {query_words(on)}",
        "vectors": vector_words(on),
        "notes": notes(on),
    }


def rank_curves(subject: Subject) -> Row:
    """Recall@K for many K."""
    return subject.ask("cumulative_ranks").rows()


def comparison(subject: Subject) -> Row:
    """The models against the first of them; or the reason why they are not compared."""
    if len(subject.models) < 2:
        again = f"'clipstore eval --model NAME --split {subject.split}'"
        return {"reason": f"{subject.models[0]} alone was measured here: {again} measures another to hold against it."}
    options = CompareOptions(
        protocol=subject.protocol,
        captions=cast("CaptionSet | None", subject.choice.get("captions")),
        unseen="unseen" in subject.choice,
    )
    words = [
        word for key in ("protocol", "captions") if key in subject.choice for word in (f"--{key}", subject.choice[key])
    ]
    words += ["--unseen"] if options.unseen else []
    command = shlex.join(["clipstore", "compare", *subject.models, "--split", subject.split, *words])
    try:
        told = compare(subject.store, subject.models, subject.split, options)
    except ClipstoreError as error:
        return {"reason": f"The models cannot be compared: {error}"}
    return {"commands": [command], **told, "basis": list(basis(told))}


def categories(subject: Subject) -> Row:
    """Metrics by what the image shows."""
    return subject.ask("metrics_by_category").rows()


def caption_lengths(subject: Subject) -> Row:
    """Metrics by the words of the caption."""
    return subject.ask("metrics_by_caption_length").rows()


def failure_kinds(subject: Subject) -> Row:
    """Why queries failed."""
    return subject.ask("failure_kinds").rows()


# ---- single queries ----

# What is asked with and what is wanted.
_KINDS = {"image_to_text": ("image", "caption"), "text_to_image": ("caption", "image")}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one model found for one query; `kind` and `detail` say why it failed, None where it did not."""

    rank: float
    wanted_id: int
    kind: str | None
    detail: str | None


class Ranks:
    """All queries of a subject, by direction: (asked id, its own caption or 0) -> model -> what it found.

    Under paired-rows an image asks once for each of its captions; elsewhere it asks once.
    """

    def __init__(self, subject: Subject) -> None:
        answer = subject.ask("ranks", limit=_ALL)
        own_pair = subject.protocol == "paired-rows"
        self.commands = answer.commands
        self.queries: dict[str, dict[tuple[int, int], dict[str, Found]]] = {}
        for direction in _KINDS:
            queries = self.queries[direction] = {}
            columns = _columns(answer.table, direction, "query_id", "model", "rank", "wanted_id", "kind", "detail")
            for query, model, rank, wanted, kind, detail in columns:
                found = Found(rank=rank, wanted_id=wanted, kind=kind, detail=detail)
                queries.setdefault((query, wanted if own_pair else 0), {})[model] = found


def queries(subject: Subject, items: Items, ranks: Ranks) -> Row:
    """The queries that at least one of the models failed, by direction, in columns: what was asked, and for each model
    the rank, the wanted item, the kind of failure and the first hits.
    """
    hits = subject.ask("retrieved", k=FIRST, limit=_ALL)
    return {
        "commands": [*ranks.commands, *hits.commands],
        **{direction: _direction(subject, items, direction, ranks, hits.table) for direction in _KINDS},
    }


def _direction(subject: Subject, items: Items, direction: str, ranks: Ranks, hits: pa.Table) -> Row:
    asks, wants = _KINDS[direction]
    failed = {
        query: models
        for query, models in ranks.queries[direction].items()
        if any(found.rank > 1 for found in models.values())
    }
    first: dict[tuple[str, int], list[tuple[int, float, bool]]] = {}
    for model, query, *hit in _columns(hits, direction, "model", "query_id", "item_id", "score", "correct"):
        first.setdefault((model, query), []).append(tuple(hit))
    return {
        "asked": items.places(asks, (query for query, _ in failed)),
        "models": [
            {
                **_found(items, wants, [models.get(model) for models in failed.values()]),
                **_hits(items, wants, [first.get((model, query), []) for query, _ in failed]),
            }
            for model in subject.models
        ],
    }


def _found(items: Items, wants: str, found: Sequence[Found | None]) -> Row:
    """What one model found for each query; None: it was not asked that."""
    return {
        "rank": [round(one.rank, 2) if one else None for one in found],
        "wanted": items.places(wants, (one.wanted_id if one else None for one in found)),
        "kind": [one.kind if one else None for one in found],
        "detail": [one.detail if one else None for one in found],
    }


def _hits(items: Items, wants: str, hits: Sequence[list[tuple[int, float, bool]]]) -> Row:
    """The first hits of each query."""
    return {
        "hits": [items.places(wants, (item for item, _, _ in one)) for one in hits],
        "scores": [[round(score, 3) for _, score, _ in one] for one in hits],
        "correct": [[int(correct) for _, _, correct in one] for one in hits],
    }


def _columns(table: pa.Table, direction: str, *names: str) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row, of one direction."""
    of_it = table.filter(pc.equal(table["direction"], direction))
    return zip(*(of_it[name].to_pylist() for name in names), strict=True)


def maps(subject: Subject, items: Items, ranks: Ranks, method: str, on_progress: Progress) -> Row:
    """Each model's vectors in a plane, with the rank of each item as a query; or the reason why there is none."""
    drawn: list[Row] = []
    for model in subject.models:
        try:
            told = embedding_map(subject.store, model, subject.split, method=method, on_progress=on_progress)
        except ClipstoreError as error:
            return {"reason": f"There is no map: {error}", "models": []}
        drawn.append({"model": model, **_map(told["points"], items, ranks, model)})
    return {"commands": ranks.commands, "method": method, "models": drawn}


def _map(points: Sequence[Row], items: Items, ranks: Ranks, model: str) -> Row:
    """The points by kind, in columns."""
    told = {}
    for direction, (kind, _) in _KINDS.items():
        own = [point for point in points if point["kind"] == kind]
        least: dict[int, float] = {}
        for (query, _), models in ranks.queries[direction].items():
            if model in models:
                least[query] = min(models[model].rank, least.get(query, math.inf))
        told[kind] = {
            "item": items.places(kind, (point["id"] for point in own)),
            "x": [round(point["x"], 3) for point in own],
            "y": [round(point["y"], 3) for point in own],
            "rank": [least.get(point["id"]) for point in own],
        }
    return told


# ---- hubs, training, the data set ----


def hubs(subject: Subject, items: Items) -> Row:
    """How unevenly items are retrieved, and those that are retrieved most often."""
    most = joined(
        ask(subject.store, "hubs", {"model": model, **subject.choice, "direction": direction, "limit": _HUBS})
        for model in subject.models
        for direction in _KINDS
    ).rows()
    for row in most["rows"]:
        (row["place"],) = items.places(_KINDS[row["direction"]][1], [row["item_id"]])
    return {"most": most, "hubness": subject.ask("hubness").rows(), "times": subject.ask("k_occurrence").rows()}


def training(subject: Subject) -> list[Row]:
    """The epochs of the models that this store trained."""
    files = {model: subject.store.adapters / model / "metrics.csv" for model in subject.models}
    return [
        {"model": model, **ask(subject.store, "training", {"file": file}).rows()}
        for model, file in files.items()
        if file.exists()
    ]


def statistics(subject: Subject) -> Row:
    """What the split holds."""
    command = shlex.join(["clipstore", "stats", "--split", subject.split, "--json"])
    return {"commands": [command], **split_stats(subject.store, subject.split)}


def item_failures(store: Store) -> Row:
    """Photos and captions of the whole store that gave no vector: the first of them, and how many there are."""
    answer = ask(store, "item_failures", {"limit": _PROBLEMS})
    return {**answer.rows(), "total": total_rows(answer.table)}
