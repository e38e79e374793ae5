"""Compare zero-shot classifications with a baseline over the same images and classes, from the catalog."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstore.catalog import Session
from clipstore.errors import ComparisonError
from clipstore.hints import zeroshot_command
from clipstore.pipeline.zeroshot.outcomes import Outcomes, read_outcomes
from clipstore.records import Row
from clipstore.significance import Method, holm, randomization, resampled_interval
from clipstore.store.classifications import read_classification
from clipstore.store.layout import Store, split_id
from clipstore.store.models import find_model

Floats = NDArray[np.float64]

_MIN_FLIPS = 200  # for each comparison

# What compared classifications have in common, with its name in messages.
_SHARED = {
    "labels": "labels",
    "templates_digest": "templates",
    "partial": "partial",
    "images": "images",
    "classes": "classes",
    "top": "--top",
    "gallery_digest": "images or labels",
}
_PROVENANCE = (
    *("split", "split_digest", "gallery_digest", "labels", "templates", "templates_digest", "images", "classes"),
    *("unlabelled_images", "left_out_images", "partial"),
)
_MODEL_PROVENANCE = ("seen_images", "image_fingerprint", "text_fingerprint", "precision", "dtype")


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """One model against the baseline: its metrics in order, and their intervals and p-values, (J,)."""

    metrics: list[str]
    low: Floats
    high: Floats
    p: Floats


def compare_classifications(store: Store, models: Sequence[str], split: str) -> Row:
    """Compare models with the first, the baseline; the result as `clipstore compare --task zeroshot --json` prints it.

    The latest classification of each model is used.

    Raises:
        NotFoundError: there is no such model or split.
        ComparisonError: a model has no classification of the split, or they differ in templates, images or classes.
    """
    with store.catalog.read() as session:
        split_id(session, split)
        stored = {row["model"]: row for row in session.rows("zeroshot/selected", models=list(models), split=split)}
        if len(stored) == len(models):
            rows = [stored[name] for name in models]
            for other in rows[1:]:
                _check_comparable(rows[0], other)
            return _compare(session, rows)
    missing = [name for name in models if name not in stored]
    for name in missing:
        find_model(store, name)
    message = (
        f"no zero-shot classification of {' and '.join(missing)} on {split}: run '{zeroshot_command(missing, split)}' "
        "first"
    )
    raise ComparisonError(message)


def _check_comparable(baseline: Row, other: Row) -> None:
    """Check that two classifications have the same images, classes and templates.

    Raises:
        ComparisonError: they differ; with the first difference, and the command that makes them comparable.
    """
    for key, name in _SHARED.items():
        if baseline[key] != other[key]:
            names = [baseline["model"], other["model"]]
            message = (
                f"{names[0]} and {names[1]} were classified with different {name}: classify both again with "
                f"'{zeroshot_command(names, baseline['split'])}', with the same templates and labels"
            )
            raise ComparisonError(message)


def _compare(session: Session, rows: Sequence[Row]) -> Row:
    """Compare the first classification with the others."""
    results = [read_classification(session, row["classification_id"]) for row in rows]
    outcomes = [read_outcomes(session, row) for row in rows]
    baseline, *others = results
    metrics = outcomes[0].metrics
    comparisons = len(metrics) * len(others)
    method = Method(flips=max(Method.flips, _MIN_FLIPS * comparisons))
    estimated = [_estimate(outcomes[0], other, method) for other in outcomes[1:]]
    p_holm = holm(np.concatenate([one.p for one in estimated])).reshape(len(others), -1)
    return {
        "task": "zeroshot",
        "baseline": baseline["model"],
        "split": baseline["split"],
        "measured_on": {key: baseline["measured_on"][key] for key in _PROVENANCE}
        | {"models": {row["model"]: {key: row[key] for key in _MODEL_PROVENANCE} for row in rows}},
        "method": asdict(method) | {"clusters": outcomes[0].images, "comparisons": comparisons},
        "models": [
            {
                "model": other["model"],
                "differences": _differences(baseline, other, comparison, corrected, method),
                "classes": _class_differences(baseline, other),
                "images": outcomes[0].changes(outcome),
            }
            for other, outcome, comparison, corrected in zip(others, outcomes[1:], estimated, p_holm, strict=True)
        ],
        "warnings": [],
    }


def _estimate(baseline: Outcomes, other: Outcomes, method: Method) -> _Comparison:
    """Intervals by resampling images, as candidates too; p-values by swapping the results of images."""
    statistic: Callable[[Floats], Floats] = lambda times: other.resampled(times) - baseline.resampled(times)  # noqa: E731
    low, high = resampled_interval(baseline.images, statistic, method)
    p = randomization(other.contributions() - baseline.contributions(), method)
    return _Comparison(metrics=other.metrics, low=low, high=high, p=p)


def _differences(baseline: Row, other: Row, comparison: _Comparison, p_holm: Floats, method: Method) -> list[Row]:
    columns = zip(comparison.metrics, comparison.low, comparison.high, comparison.p, p_holm, strict=True)
    rows = []
    for metric, low, high, p, corrected in columns:
        values = baseline["metrics"][metric], other["metrics"][metric]
        difference = values[1] - values[0]
        verdict = "no difference shown"
        if corrected < 1 - method.confidence:
            verdict = "better" if difference > 0 else "worse"
        interval = [None if np.isnan(end) else float(end) for end in (low, high)]
        row: dict[str, Any] = {"metric": metric, "baseline": values[0], "value": values[1], "difference": difference}
        row |= {"low": interval[0], "high": interval[1], "p": float(p), "p_holm": float(corrected), "verdict": verdict}
        rows.append(row)
    return rows


def _class_differences(baseline: Row, other: Row) -> list[Row]:
    """The metric of each class that some image has: average precision, or recall."""
    metric = "average_precision" if other["labels"] == "multi" else "recall"
    return [
        {
            "class": before["class"],
            "images": before["images"],
            "metric": metric,
            "baseline": before[metric],
            "value": after[metric],
            "difference": after[metric] - before[metric],
        }
        for before, after in zip(baseline["classes"], other["classes"], strict=True)
        if before["images"]
    ]
