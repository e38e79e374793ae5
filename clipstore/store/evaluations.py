"""The evaluations that the catalog keeps: read as `clipstore eval --json` has them, and forgotten."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC

from clipstore.catalog import Session
from clipstore.errors import NotFoundError
from clipstore.records import Row
from clipstore.store.layout import Store, split_id
from clipstore.store.models import model_name

# What the number of a direction's queries is called in JSON. Under paired-rows an image is a query for each caption.
_QUERIES = {"image_to_text": "image_queries", "text_to_image": "caption_queries"}

# What a direction's metrics are called in JSON: named by what is retrieved.
_JSON_NAMES = {"image_to_text": "text_retrieval_", "text_to_image": "image_retrieval_", "both": ""}


def read_evaluations(store: Store, split: str | None = None, models: Iterable[str] = ()) -> list[Row]:
    """What the catalog keeps of a split (None: of all) and of models (none named: of all); nothing is ranked.

    Each as `clipstore eval --json` has it, split by split, the models in the order named, else in that of evaluation.

    Raises:
        NotFoundError: there is no such split, or one of them was not measured there, with the command that does it.
    """
    named = list(dict.fromkeys(model_name(store, word) for word in models))
    with store.catalog.read() as session:
        if split is not None:
            split_id(session, split)
        kept = session.rows("evaluate/stored", split=split, models=named)
        measured = {row["model"] for row in kept}
        if not measured or not measured.issuperset(named):
            lacking = [f"--model {name}" for name in named if name not in measured]
            command = " ".join(["clipstore eval", *lacking, f"--split {split or 'SPLIT'}"])
            message = f"no evaluation of that is kept: run '{command}' first"
            raise NotFoundError(message)
        return [read_evaluation(session, row["evaluation_id"]) for row in kept]


def read_evaluation(session: Session, evaluation_id: int) -> Row:
    """One evaluation as `clipstore eval --json` prints it."""
    told = session.rows("evaluate/result", evaluation_id=evaluation_id)[0]
    told["evaluated_at"] = told["evaluated_at"].astimezone(UTC).isoformat(timespec="seconds")
    queries = _queries(session, evaluation_id)
    told |= queries["all"]
    return {
        "model": told.pop("model"),
        "split": told["split"],
        "protocol": told["protocol"],
        "metrics": read_metrics(session, evaluation_id),
        "measured_on": told,
        **_subsets(session, evaluation_id, queries),
    }


def read_metrics(session: Session, evaluation_id: int) -> dict[str, float]:
    """The metrics of one evaluation over all its queries, by their names in JSON."""
    return _named(session.rows("evaluate/metrics", evaluation_id=evaluation_id))


def _named(rows: Iterable[Row]) -> dict[str, float]:
    return {f"{_JSON_NAMES[row['direction']]}{row['metric']}": row["value"] for row in rows}


def _queries(session: Session, evaluation_id: int) -> dict[str, Row]:
    """How many queries there are, image to text and text to image: "all", and of those "seen" and "unseen"."""
    counts = {subset: dict.fromkeys(_QUERIES.values(), 0) for subset in ("all", "seen", "unseen")}
    for row in session.rows("evaluate/queries", evaluation_id=evaluation_id):
        counts[row["subset"]][_QUERIES[row["direction"]]] = row["queries"]
    return counts


def _subsets(session: Session, evaluation_id: int, queries: dict[str, Row]) -> dict[str, Row]:
    """What evaluation says under "seen" and "unseen": images asked with (trained on, or not), their share, the numbers
    of queries, metrics.

    Nothing where it was trained on none of them.
    """
    sizes = {row["subset"]: row["images"] for row in session.rows("evaluate/subset_sizes", evaluation_id=evaluation_id)}
    if not sizes:
        return {}
    rows = session.rows("evaluate/subsets", evaluation_id=evaluation_id)
    return {
        subset: {
            "images": sizes.get(subset, 0),
            "share": sizes.get(subset, 0) / sum(sizes.values()),
            **queries[subset],
            "metrics": _named(row for row in rows if row["subset"] == subset),
        }
        for subset in ("seen", "unseen")
    }


def delete_stale(session: Session) -> list[Row]:
    """Remove the evaluations of splits that are no longer what was measured, and return them."""
    stale = session.rows("evaluate/stale")
    delete_evaluations(session, [row["evaluation_id"] for row in stale])
    return stale


def delete_evaluations(session: Session, evaluations: Iterable[int]) -> None:
    """Remove evaluations with their ranks and hits."""
    ids = list(evaluations)
    for statement in (
        "evaluate/remove_hits",
        "evaluate/remove_ranks",
        "evaluate/remove_seen_images",
        "evaluate/remove_evaluations",
    ):
        session.run(statement, evaluations=ids)


def delete_model_evaluations(session: Session, model_id: int) -> None:
    """Remove all evaluations of a model with their ranks and hits."""
    delete_evaluations(session, [row["evaluation_id"] for row in session.rows("evaluate/of_model", model_id=model_id)])
