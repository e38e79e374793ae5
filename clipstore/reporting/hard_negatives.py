"""The accuracy on hard negatives, by subset, with the provenance of each evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipstore.records import Row
from clipstore.reporting.metrics import describe_gallery, describe_vectors, evaluation_notes
from clipstore.reporting.tables import console, print_table

Evaluation = Mapping[str, Any]  # as `clipstore eval --json` prints it

ALL, MEAN = "all pairs", "mean of subsets"


def metric_title(metric: str) -> str:
    """The title of a metric of the protocol hard-negatives: the subset, or what it is over."""
    return {"accuracy": ALL, "macro_accuracy": MEAN}.get(metric, metric.removeprefix("accuracy/"))


def print_hard_negatives(evaluations: Sequence[Evaluation]) -> None:
    """Print a row for each model and subset, then the provenance of each evaluation."""
    print_table([row for evaluation in evaluations for row in accuracy_rows(evaluation)])
    for evaluation in evaluations:
        for line in provenance_lines(evaluation):
            console().print(line, style="dim", soft_wrap=True)


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


def provenance_lines(evaluation: Evaluation) -> Iterator[str]:
    """The provenance of an evaluation in lines that follow a table."""
    measured_on = evaluation["measured_on"]
    yield (
        f"{evaluation['model']} on {describe_gallery(measured_on)}; {measured_on['image_queries']:,} pairs; "
        f"{describe_vectors(measured_on)}; scores in float64; {measured_on['seconds']:.1f} s, peak memory "
        f"{measured_on['peak_memory'] / 2**20:,.0f} MB"
    )
    yield from (f"  {note}" for note in evaluation_notes(measured_on))
    yield "  accuracy: the share of captions that score above their hard negative; a tie counts one half"
