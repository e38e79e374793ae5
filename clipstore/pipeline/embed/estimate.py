"""What embedding pending items will cost: bytes by their number and width, and time by a measured sample."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import Timings
from clipstore.pipeline.embed.plan import ITEMS_PER_SHARD, PendingItems, plan_groups
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun, Work
from clipstore.shards import expected_bytes

SAMPLE_ITEMS = {"image": 32, "text": 512}  # items that are encoded to measure the time
_REPEATS = 3  # measurements, after one that warms up


def estimate_pending(run: EmbedRun, work: Work) -> None:
    """Add the expected time and bytes of pending items to their towers' summaries; encodes samples, writes nothing."""
    for model, items in work:
        summary = model.summaries[items.tower.tower]
        summary.estimate = (summary.estimate or 0.0) + measure(run, model, items).seconds * items.count
        summary.size += shard_bytes(items, run.options.store_dtype)


def shard_bytes(items: PendingItems, store_dtype: str) -> int:
    """The expected bytes of the shards of pending items: vectors, and the features of images that have none yet."""
    tower, rows = items.tower, items.count
    most = ITEMS_PER_SHARD[tower.tower]
    sizes = [most] * (rows // most) + [rows % most] * bool(rows % most)
    total = sum(expected_bytes(size, tower.dim, store_dtype) for size in sizes)
    if items.source == "image_files" and tower.features_dim:
        total += sum(expected_bytes(size, tower.features_dim, "float32") for size in sizes)
    return total


class Measurement(NamedTuple):
    """The time of an item, and the number of items that it was measured on."""

    seconds: float
    items: int


def measure(run: EmbedRun, model: EmbedModel, items: PendingItems) -> Measurement:
    """The time that one pending item takes the loaded model: the median of a few runs over an evenly spaced sample.

    Items that fail are not counted.
    """
    sample = items.sample(SAMPLE_ITEMS[items.tower.tower])
    settings = run.encode_settings(model, items.tower, Timings())
    (group,) = plan_groups([sample])
    durations = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        encoded = len(encode_rows(group.plans[0], settings).contents)
        durations.append(time.perf_counter() - start)
    return Measurement(float(median(durations[1:])) / max(encoded, 1), encoded)
