"""The estimate of a dry run."""

from __future__ import annotations

import time

import numpy as np

from clipstore.inference.encode import encode_rows
from clipstore.inference.settings import Timings
from clipstore.pipeline.embed.plan import PendingItems, plan_groups
from clipstore.pipeline.embed.state import EmbedModel, EmbedRun

_ESTIMATE_ITEMS = {"image": 32, "text": 512}  # items that are encoded to measure the time


def add_estimate(run: EmbedRun, model: EmbedModel, items: PendingItems) -> None:
    """Add the expected time and bytes of pending items to their tower's summary; encodes a sample, writes nothing."""
    tower, count = items.tower, items.table.num_rows
    summary = model.summaries[tower.tower]
    sample = items.sample(_ESTIMATE_ITEMS[tower.tower])
    settings = run.encode_settings(model, tower, Timings())
    for _ in range(2):  # the first time warms up
        start = time.perf_counter()
        for group in plan_groups([sample]):
            encode_rows(group.plans[0], settings)
        seconds = time.perf_counter() - start
    features = tower.features_dim * np.dtype(np.float32).itemsize if items.source == "image_files" else 0
    vector = tower.dim * np.dtype(run.options.store_dtype).itemsize
    summary.estimate = (summary.estimate or 0.0) + seconds / sample.table.num_rows * count
    summary.size += count * (vector + features)
