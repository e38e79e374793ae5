"""The comparison of models: a table a model, and under them what was measured and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from clipstore.records import Row
from clipstore.reporting.metrics import DIRECTIONS, gallery_words
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
_DECIMALS = {"mean_rank": 1, "rsum": 1}  # of the others, which are fractions, 3
_FEW = 50  # images; from fewer, intervals cover less than they say (tests/test_paired.py)


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print the differences of every model from the baseline, the queries that changed, and what this rests on."""
    for model in comparison["models"]:
        title = f"{model['model']} against {comparison['baseline']}"
        print_table(difference_rows(model, comparison["method"]["confidence"]), title=title)
    print_table([row for model in comparison["models"] for row in change_rows(model)], title="Queries")
    for line in basis(comparison):
        console().print(line, style="dim", soft_wrap=True)


def difference_rows(model: Mapping[str, Any], confidence: float) -> list[Row]:
    """One row a metric and direction: both values, the difference with its interval, p, Holm's p, and the verdict."""
    return [
        {
            "direction": _DIRECTIONS[row["direction"]],
            "metric": _METRICS[row["metric"]],
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
    """One row a direction: how many queries were fixed, broken, unchanged, and moved either way."""
    return [{"model": model["model"], **row, "direction": _DIRECTIONS[row["direction"]]} for row in model["queries"]]


def basis(comparison: Mapping[str, Any]) -> Iterator[str]:
    """What a comparison was measured on and how, in lines to stand under a table."""
    on, how = comparison["measured_on"], comparison["method"]
    yield gallery_words(on)
    yield from method_words(how)
    yield (
        "fixed: no positive stood first, now one does; broken: the reverse; better, worse: the first positive's rank. "
        "'clipstore query changes' lists them"
    )
    yield from cautions(on, how)


def method_words(how: Mapping[str, Any]) -> Iterator[str]:
    """Where the intervals and the p-values of a comparison come from."""
    yield (
        f"intervals: {how['resamples']:,} draws of {how['clusters']:,} images with all their queries (percentile "
        "bootstrap by image); the gallery is held fixed: they speak of other queries against these candidates"
    )
    yield (
        f"p: {how['flips']:,} times, the queries of random images swap the two models (two-sided); p (Holm): corrected "
        f"for all {how['comparisons']} comparisons made here, and below {1 - how['confidence']:.2f} gives the verdict; "
        f"seed {how['seed']}"
    )


def cautions(on: Mapping[str, Any], how: Mapping[str, Any]) -> Iterator[str]:
    """What a reader must know before believing the numbers."""
    for name, model in on["models"].items():
        if model["seen_images"] and not on["unseen"]:
            yield (
                f"{name} was TRAINED ON {model['seen_images'] / on['images']:.1%} of these images "
                f"({model['seen_images']:,}): the comparison flatters it; evaluate and compare with --unseen"
            )
    unknown = [name for name, model in on["models"].items() if model["seen_images"] is None]
    if unknown:
        yield f"training images of {', '.join(unknown)} unknown; record them with 'clipstore model trained'"
    if on["unseen"]:
        yield f"UNSEEN: asked with the {on['asked_images']:,} images that none of the models was trained on"
    if on["partial"]:
        yield "PARTIAL: measured before everything was embedded"
    if how["clusters"] < _FEW:
        yield f"FEW IMAGES: intervals from {how['clusters']} images cover less than they say"


def _value(metric: str, value: float, *, sign: str = "") -> str:
    return f"{value:{sign}.{_DECIMALS.get(metric, 3)}f}"


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return "none"
    return " to ".join(_value(row["metric"], row[end], sign="+") for end in ("low", "high"))
