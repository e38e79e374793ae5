"""The comparison of models: a table for each model, then its provenance and method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipstore.protocols import PROTOCOLS
from clipstore.records import Row
from clipstore.reporting.hard_negatives import metric_title
from clipstore.reporting.metrics import DIRECTIONS, describe_gallery
from clipstore.reporting.tables import console, print_table

_DIRECTIONS = DIRECTIONS | {"both": "both"}
_METRICS = {
    "recall@1": "Recall@1",
    "recall@5": "Recall@5",
    "recall@10": "Recall@10",
    "mrr": "MRR",
    "mean_rank": "mean rank",
    "rsum": "RSUM",
}
_DECIMALS = {"mean_rank": 1, "rsum": 1}  # the others are fractions with 3
_MIN_IMAGES = 50  # intervals from fewer images have a lower coverage (see tests/test_significance.py)


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print the differences of every model from the baseline, the queries that changed, and the provenance."""
    for model in comparison["models"]:
        title = f"{model['model']} against {comparison['baseline']}"
        print_table(difference_rows(model, comparison["method"]["confidence"]), title=title)
    print_table([row for model in comparison["models"] for row in change_rows(model)], title="Queries")
    for line in comparison_notes(comparison):
        console().print(line, style="dim", soft_wrap=True)


def difference_rows(model: Mapping[str, Any], confidence: float) -> list[Row]:
    """One row for each metric and direction: both values, difference, interval, p, Holm's p and verdict."""
    return [
        {
            "direction": _DIRECTIONS[row["direction"]],
            "metric": _METRICS.get(row["metric"]) or metric_title(row["metric"]),
            "baseline": _value(row["metric"], row["baseline"]),
            "value": _value(row["metric"], row["value"]),
            "difference": _value(row["metric"], row["difference"], sign="+"),
            f"{confidence:.0%} interval": _interval(row),
            "p": f"{row['p']:.4f}",
            "p (Holm)": f"{row['p_holm']:.4f}",
            "verdict": row["verdict"],
        }
        for row in model["differences"]
    ]


def change_rows(model: Mapping[str, Any]) -> list[Row]:
    """One row for each direction: the numbers of queries that are fixed, broken, unchanged, better and worse."""
    return [{"model": model["model"], **row, "direction": _DIRECTIONS[row["direction"]]} for row in model["queries"]]


def comparison_notes(comparison: Mapping[str, Any]) -> Iterator[str]:
    """The provenance and the method of a comparison, in lines that follow a table."""
    measured_on, method = comparison["measured_on"], comparison["method"]
    yield describe_gallery(measured_on)
    yield from method_notes(method)
    if PROTOCOLS[measured_on["protocol"]].hard_negatives:
        yield (
            "accuracy: the share of captions that score above their hard negative, a tie one half; fixed: the caption "
            "scores above it only now; broken: the reverse. 'clipstore query hard_negative_pairs' lists the pairs"
        )
        yield from caution_notes(measured_on, method)
        return
    yield (
        "fixed: a positive reached rank 1; broken: the reverse; better, worse: the rank of the first positive improved "
        "or worsened. 'clipstore query changes' lists the queries"
    )
    yield from caution_notes(measured_on, method)


def method_notes(method: Mapping[str, Any]) -> Iterator[str]:
    """How the intervals and p-values of a comparison are computed."""
    yield (
        f"intervals: percentile bootstrap over images, {method['resamples']:,} resamples of {method['clusters']:,} "
        "images with all their queries; conditional on this gallery: the intervals cover the sampling of queries only"
    )
    yield randomization_note(method)


def randomization_note(method: Mapping[str, Any]) -> str:
    """How the p-values of a comparison are computed."""
    return (
        f"p: two-sided randomization test, {method['flips']:,} random swaps of the two models' results per image; "
        f"p (Holm): adjusted for all {method['comparisons']} comparisons of this table; significant below "
        f"{1 - method['confidence']:.2f}; seed {method['seed']}"
    )


def caution_notes(measured_on: Mapping[str, Any], method: Mapping[str, Any]) -> Iterator[str]:
    """What limits the validity of a comparison."""
    for name, model in measured_on["models"].items():
        if model["seen_images"] and not measured_on["unseen"]:
            yield (
                f"{name} was TRAINED ON {model['seen_images'] / measured_on['images']:.1%} of these images "
                f"({model['seen_images']:,}): its metrics are optimistic; evaluate and compare with --unseen"
            )
    unknown = [name for name, model in measured_on["models"].items() if model["seen_images"] is None]
    if unknown:
        yield f"training images of {', '.join(unknown)} unknown; record them with 'clipstore model trained'"
    if measured_on["unseen"]:
        yield (
            f"UNSEEN: the queries are the {measured_on['asked_images']:,} images that none of the models was trained "
            "on, and their captions"
        )
    if measured_on["partial"]:
        yield "PARTIAL: evaluated before all items were embedded"
    yield from few_images_notes(method)


def few_images_notes(method: Mapping[str, Any]) -> Iterator[str]:
    """A caution where a comparison has too few images for its intervals."""
    if method["clusters"] < _MIN_IMAGES:
        yield f"FEW IMAGES: intervals from {method['clusters']} images cover the true difference less often than stated"


def _value(metric: str, value: float, *, sign: str = "") -> str:
    return f"{value:{sign}.{_DECIMALS.get(metric, 3)}f}"


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return "none"
    return " to ".join(_value(row["metric"], row[end], sign="+") for end in ("low", "high"))
