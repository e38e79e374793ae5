"""The metric table, and under it what each number was measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipstore.reporting.tables import console, print_table

Evaluation = Mapping[str, Any]

_DIRECTIONS = {"text_retrieval": "image → text", "image_retrieval": "text → image"}
_COLUMNS = {
    "Recall@1": "recall@1",
    "Recall@5": "recall@5",
    "Recall@10": "recall@10",
    "MRR": "mrr",
    "median rank": "median_rank",
    "mean rank": "mean_rank",
}


def print_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Print a row for each model and direction, then what was measured on what."""
    print_table([row for evaluation in evaluations for row in metric_rows(evaluation)])
    for evaluation in evaluations:
        for line in stamp(evaluation):
            console().print(line, style="dim", soft_wrap=True)


def metric_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One row a direction: Recall@K and MRR as fractions, ranks from 1."""
    metrics = evaluation["metrics"]
    return [
        {
            "model": evaluation["model"],
            "direction": words,
            **{title: _shown(metrics[f"{prefix}_{name}"]) for title, name in _COLUMNS.items()},
            "RSUM": f"{metrics['rsum']:.1f}" if "rsum" in metrics else "",
        }
        for prefix, words in _DIRECTIONS.items()
        if f"{prefix}_mrr" in metrics
    ]


def stamp(evaluation: Evaluation) -> list[str]:
    """What an evaluation was measured on, in lines to stand under a table."""
    on = evaluation["measured_on"]
    lines = [
        f"{evaluation['model']} on {on['split']} ({on['split_digest'][:12]}): {on['images']:,} images, "
        f"{on['captions']:,} captions; protocol {on['protocol']}; {on['precision']}, stored as {on['dtype']}; "
        f"image tower {on['image_fingerprint'][:12]}, text tower {on['text_fingerprint'][:12]}; "
        f"{on['tied_pairs']:,} tied pairs; {on['seconds']:.1f} s, peak memory {on['peak_memory'] / 2**20:,.0f} MB"
    ]
    if on["left_out_images"] or on["left_out_captions"]:
        lines.append(
            f"  left out: {on['left_out_images']:,} images without a readable photo, and {on['left_out_captions']:,} "
            "captions (theirs, or failed themselves)"
        )
    if on["partial"]:
        lines.append(
            f"  PARTIAL: {on['pending_images']:,} images and {on['pending_captions']:,} captions are not embedded yet"
        )
    if on["protocol"] == "paired-rows":
        lines.append(
            "  paired-rows: each caption is asked for by its own image alone, so siblings compete, and Recall@1 cannot "
            f"exceed {on['images'] / on['captions']:.3f} here; never compare it with the standard protocol's"
        )
    return lines


def _shown(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"
