"""The notes on an embed run."""

from __future__ import annotations

import os
from typing import Any

from clipstore.reporting.embedding import summary_notes

CLOCK = {"read": 1.0, "decode": 19.0, "forward": 4.0, "wait": 16.0, "write": 0.5}
SUMMARY: dict[str, Any] = {
    "model": "m", "tower": "image", "lost_shards": 0, "least_cosine": None, "pieces": 1, "failed": 0,
    "special_tokens": 0, "missing": 0, "seconds": 20.0, "workers": 1, "clock": CLOCK,
}  # fmt: skip


def test_the_cost_of_a_precision_and_split_batches_are_reported() -> None:
    short = SUMMARY | {"seconds": 1.0}
    notes = "\n".join(summary_notes([short | {"least_cosine": 0.9981, "pieces": 4}]))
    assert "0.9981" in notes
    assert "--precision fp32" in notes
    assert "split in 4: lower --memory" in notes
    assert summary_notes([short | {"least_cosine": 0.9995}]) == []


def test_the_bottleneck_is_named_with_its_remedy() -> None:
    cores = os.cpu_count() or 1
    (note,) = summary_notes([SUMMARY | {"clock": CLOCK | {"decode": 19.0 * cores}}])
    assert "the model waited 80% of the time" in note
    assert "image decoding: use more cores" in note
    (note,) = summary_notes([SUMMARY | {"clock": CLOCK | {"forward": 19.0, "wait": 1.0}}])
    assert "the model was busy 95% of the time" in note
    (note,) = summary_notes([SUMMARY | {"clock": CLOCK | {"read": 19.0 * 32, "decode": 1.0}}])
    assert "image file reads: move the files to a nearer" in note
