"""The sections of a report, one function each, as plain data.

Every number comes from a named query, and each section carries the commands that give its numbers: the very questions
that were asked for it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from clipstore.catalog import Row
from clipstore.pipeline.query import run_query
from clipstore.pipeline.stats import split_stats
from clipstore.pipeline.store import Store
from clipstore.reporting.metrics import gallery_words, notes, vector_words

FIRST = 5  # hits of a query that the page shows

_HUBS = 8  # items of a model and direction
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
    choice: Mapping[str, object]
    caption_set: str
    kept: Sequence[Row]

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
        "gallery": gallery_words(on),
        "vectors": vector_words(on),
        "notes": notes(on),
    }


def rank_curves(subject: Subject) -> Row:
    """Recall@K for many K."""
    return subject.ask("cumulative_ranks").rows()


def categories(subject: Subject) -> Row:
    """Metrics by what the image shows."""
    return subject.ask("metrics_by_category").rows()


def caption_lengths(subject: Subject) -> Row:
    """Metrics by the words of the caption."""
    return subject.ask("metrics_by_caption_length").rows()


# ---- single queries ----

# What is asked with and what is wanted.
_KINDS = {"image_to_text": ("image", "caption"), "text_to_image": ("caption", "image")}


def queries(subject: Subject, items: Items) -> Row:
    """The queries that at least one of the models failed, by direction, in columns."""
    ranks, hits = subject.ask("ranks", limit=_ALL), subject.ask("retrieved", k=FIRST, limit=_ALL)
    return {
        "commands": [*ranks.commands, *hits.commands],
        "first": FIRST,
        **{direction: _direction(subject, direction, ranks.table, hits.table, items) for direction in _KINDS},
    }


def _direction(subject: Subject, direction: str, ranks: pa.Table, hits: pa.Table, items: Items) -> Row:
    """What was asked, and for each model the rank, the wanted item and the first hits of each query.

    Under paired-rows an image asks once for each of its captions; elsewhere it asks once.
    """
    asks, wants = _KINDS[direction]
    own_pair = subject.choice.get("protocol") == "paired-rows"
    found: dict[tuple[int, int], dict[str, tuple[float, int]]] = {}
    for model, query, wanted, rank in _columns(ranks, direction, "model", "query_id", "wanted_id", "rank"):
        found.setdefault((query, wanted if own_pair else 0), {})[model] = (rank, wanted)
    failed = {key: told for key, told in found.items() if any(rank > 1 for rank, _ in told.values())}
    first: dict[tuple[str, int], list[tuple[int, float, bool]]] = {}
    for model, query, *hit in _columns(hits, direction, "model", "query_id", "item_id", "score", "correct"):
        first.setdefault((model, query), []).append(tuple(hit))
    return {
        "of": len(found),
        "asked": items.places(asks, (query for query, _ in failed)),
        "models": [
            {
                "rank": [round(told[model][0], 2) if model in told else None for told in failed.values()],
                "wanted": items.places(wants, (told[model][1] if model in told else None for told in failed.values())),
                "hits": [items.places(wants, (item for item, _, _ in first.get((model, query), ()))) for query, _ in failed],
                "scores": [[round(score, 3) for _, score, _ in first.get((model, query), ())] for query, _ in failed],
                "correct": [[int(right) for _, _, right in first.get((model, query), ())] for query, _ in failed],
            }
            for model in subject.models
        ],
    }


def _columns(table: pa.Table, direction: str, *names: str) -> Iterator[tuple[Any, ...]]:
    """The values of some columns, row by row, of one direction."""
    of_it = table.filter(pc.equal(table["direction"], direction))
    return zip(*(of_it[name].to_pylist() for name in names), strict=True)


# ---- hubs, training, the data set ----


def hubs(subject: Subject) -> Row:
    """The items that came first too often."""
    told = joined(
        ask(subject.store, "hubs", {"model": model, **subject.choice, "direction": direction, "limit": _HUBS})
        for model in subject.models
        for direction in _KINDS
    )
    return told.rows()


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
    """Photos and captions of the whole store that gave no vector."""
    return ask(store, "item_failures", {"limit": _PROBLEMS}).rows()
