"""Evaluations in the catalog: read as `clipstore eval --json` prints them, and deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from clipstore.catalog import Session
from clipstore.errors import NotFoundError
from clipstore.hints import RERANK_TOP, eval_command
from clipstore.jobs import job_files
from clipstore.protocols import PROTOCOLS
from clipstore.records import Provenance, Row
from clipstore.store.digests import split_digest
from clipstore.store.layout import Store, split_id
from clipstore.store.model_rows import recorded_models
from clipstore.store.models import find_model, model_name

Reranked = tuple[str, int, float]  # the reranker, its number of candidates, and the weight

_RERANKED = re.compile(r"([^,]+?)(?:,top=(\d+))?(?:,weight=([\d.e+-]+))?")

# JSON names of the numbers of queries. With the protocol paired-rows an image is a query for each of its captions.
_COUNT_BY_DIRECTION = {"image_to_text": "image_queries", "text_to_image": "caption_queries"}

# JSON prefixes of the metrics of a direction: named by the items that are retrieved.
_METRIC_PREFIXES = {"image_to_text": "text_retrieval_", "text_to_image": "image_retrieval_", "both": ""}


def read_evaluations(store: Store, split: str | None = None, models: Iterable[str] = ()) -> list[Row]:
    """The stored evaluations of a split (None: of all splits) and of models (none: of all models).

    Each is as `clipstore eval --json` prints it, ordered by split, then by `models`, then by time of evaluation.

    Raises:
        NotFoundError: there is no such split, or a model has no evaluation. The message names the command.
    """
    names = list(dict.fromkeys(model_name(store, name_or_path) for name_or_path in models))
    with store.catalog.read() as session:
        if split is not None:
            split_id(session, split)
        rows = session.rows("evaluate/stored", split=split, models=names)
        evaluated = {row["model"] for row in rows}
        if not evaluated or not evaluated.issuperset(names):
            missing = [name for name in names if name not in evaluated]
            message = f"no matching evaluation is stored: run '{eval_commands(store, missing, split or 'SPLIT')}' first"
            raise NotFoundError(message)
        return [read_evaluation(session, row["evaluation_id"]) for row in rows]


def reranked_name(store: Store, name: str) -> tuple[str, Reranked] | None:
    """The model and the reranking that the name of a reranked evaluation states (see `evaluated_name` in
    sql/views/evaluations.sql); None: it is not that of two models.
    """
    match, known = _RERANKED.fullmatch(name), {*job_files(), *recorded_models(store)}
    if not match or name in known:
        return None
    models, top, weight = match.groups()
    for place, character in enumerate(models):
        if character == "+" and {models[:place], models[place + 1 :]} <= known:
            return models[:place], (models[place + 1 :], int(top or RERANK_TOP), float(weight or 1))
    return None


def check_evaluated_name(store: Store, name: str) -> None:
    """Check that a name is that of a model, of a model and its reranker, or of a stored reranked evaluation, whose
    reranker may have been removed since.

    Raises:
        NotFoundError, ModelError: as `find_model`.
    """
    if reranked_name(store, name) is None:
        with store.catalog.read() as session:
            stored = session.rows("rerank/evaluation_named", name=name)
        if not stored:
            find_model(store, name)


def eval_commands(store: Store, names: Iterable[str], split: str, **options: Any) -> str:
    """The commands that evaluate models, some of them reranked, with the options of `hints.eval_command`."""
    parsed = {name: reranked_name(store, name) for name in names}
    plain = [name for name, reranked in parsed.items() if reranked is None]
    commands = [eval_command(plain, split, **options)] if plain or not parsed else []
    for model, reranking in filter(None, parsed.values()):
        commands.append(eval_command(model, split, reranking=reranking, **options))
    return "' and '".join(commands)


def read_evaluation(session: Session, evaluation_id: int) -> Row:
    """One evaluation as `clipstore eval --json` prints it."""
    row = session.rows("evaluate/result", evaluation_id=evaluation_id)[0]
    row["evaluated_at"] = datetime.fromtimestamp(row["evaluated_at"], UTC).isoformat()
    model, queries = row.pop("model"), _query_counts(session, evaluation_id)
    provenance = Provenance(**row, **queries["all"])
    if PROTOCOLS[provenance.protocol].hard_negatives:
        metrics = session.rows("hard_negatives/metrics", evaluation_id=evaluation_id)
        return {
            "model": model,
            "split": provenance.split,
            "protocol": provenance.protocol,
            "metrics": {row["metric"]: row["value"] for row in metrics},
            "subsets": session.rows("hard_negatives/subsets", evaluation_id=evaluation_id),
            "measured_on": asdict(provenance),
        }
    return {
        "model": model,
        "split": provenance.split,
        "protocol": provenance.protocol,
        "metrics": read_metrics(session, evaluation_id),
        "measured_on": asdict(provenance),
        **_subsets(session, evaluation_id, queries),
    }


def read_metrics(session: Session, evaluation_id: int) -> dict[str, float]:
    """The metrics of one evaluation over all its queries, by their names in JSON."""
    return _metrics_by_name(session.rows("evaluate/metrics", evaluation_id=evaluation_id))


def _metrics_by_name(rows: Iterable[Row]) -> dict[str, float]:
    return {f"{_METRIC_PREFIXES[row['direction']]}{row['metric']}": row["value"] for row in rows}


def _query_counts(session: Session, evaluation_id: int) -> dict[str, Row]:
    """The numbers of queries of both directions, by subset: "all", "seen" and "unseen"."""
    counts = {subset: dict.fromkeys(_COUNT_BY_DIRECTION.values(), 0) for subset in ("all", "seen", "unseen")}
    for row in session.rows("evaluate/queries", evaluation_id=evaluation_id):
        counts[row["subset"]][_COUNT_BY_DIRECTION[row["direction"]]] = row["queries"]
    return counts


def _subsets(session: Session, evaluation_id: int, queries: dict[str, Row]) -> dict[str, Row]:
    """The parts "seen" and "unseen" of an evaluation: number and share of images, numbers of queries, metrics.

    Empty if the model was trained on none of the images.
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
            "metrics": _metrics_by_name(row for row in rows if row["subset"] == subset),
        }
        for subset in ("seen", "unseen")
    }


def delete_stale(session: Session) -> list[Row]:
    """Delete the evaluations of splits that were removed or have changed since. Returns their names."""
    rows = session.rows("evaluate/split_digests")
    digests = {key: split_digest(session, key) for key in {row["split_id"] for row in rows} if key is not None}
    names = ("evaluation_id", "model", "split", "protocol")
    stale = [{name: row[name] for name in names} for row in rows if row["split_digest"] != digests.get(row["split_id"])]
    delete_evaluations(session, [row["evaluation_id"] for row in stale])
    return stale


def delete_evaluations(session: Session, evaluations: Iterable[int]) -> None:
    """Delete evaluations with their ranks and hits."""
    ids = list(evaluations)
    for statement in (
        "evaluate/delete_hits",
        "evaluate/delete_ranks",
        "evaluate/delete_seen_images",
        "hard_negatives/delete_scores",
        "evaluate/delete_evaluations",
    ):
        session.run(statement, evaluations=ids)


def delete_model_evaluations(session: Session, model_id: int) -> None:
    """Delete all evaluations of a model with their ranks and hits."""
    delete_evaluations(session, [row["evaluation_id"] for row in session.rows("evaluate/of_model", model_id=model_id)])
