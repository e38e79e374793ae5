"""The accuracy on hard negatives, by subset, and the provenance of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipstore.records import Row
from clipstore.reporting.metrics import describe_gallery, describe_vectors, evaluation_notes

Evaluation = Mapping[str, Any]  # as `clipstore eval --json` prints it

ALL, MEAN = "all pairs", "mean of subsets"


def metric_title(metric: str) -> str:
    """The title of a metric of the protocol hard-negatives: the subset, or what it is over."""
    return {"accuracy": ALL, "macro_accuracy": MEAN}.get(metric, metric.removeprefix("accuracy/"))


def accuracy_rows(evaluation: Evaluation) -> list[Row]:
    """A row for each subset, one over all pairs, and the mean of the subsets; accuracies are fractions."""
    subsets, metrics = evaluation["subsets"], evaluation["metrics"]
    counts = ("pairs", "images", "left_out", "ties")
    total = {count: sum(row[count] for row in subsets) for count in counts}
    rows = [
        *subsets,
        total | {"subset": ALL, "images": evaluation["measured_on"]["asked_images"], "accuracy": metrics["accuracy"]},
        dict.fromkeys(counts) | {"subset": MEAN, "accuracy": metrics["macro_accuracy"]},
    ]
    return [
        {
            "model": evaluation["model"],
            "subset": row["subset"],
            **{count.replace("_", " "): "" if row[count] is None else f"{row[count]:,}" for count in counts},
            "accuracy": "none" if row["accuracy"] is None else f"{row['accuracy']:.3f}",
        }
        for row in rows
    ]


def provenance_lines(evaluation: Evaluation) -> list[str]:
    """The provenance of an evaluation in lines that follow a table."""
    measured_on = evaluation["measured_on"]
    first = (
        f"{evaluation['model']} on {describe_gallery(measured_on)}; {measured_on['image_queries']:,} pairs; "
        f"{describe_vectors(measured_on)}; scores in float64; {measured_on['seconds']:.1f} s, peak memory "
        f"{measured_on['peak_memory'] / 2**20:,.0f} MB"
    )
    meaning = "accuracy: the share of captions that score above their hard negative; a tie counts one half"
    return [first, *(f"  {note}" for note in (*evaluation_notes(measured_on), meaning))]
