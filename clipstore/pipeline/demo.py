"""`clipstore demo`: the main job on drawn scenes, by the very functions that the commands call."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clipstore.demo.scenes import WORDED_ANEW, draw_dataset
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.ingest.run import ingest_coco
from clipstore.pipeline.query import run_query
from clipstore.pipeline.split import draw_split
from clipstore.pipeline.train.run import TrainOptions, train
from clipstore.progress import Progress
from clipstore.store.layout import Store
from clipstore.store.models import find_job

BASE, DATASET, HELD_OUT, TRAINING = "demo", "scenes", "val", "train"
SUBSET, WHOLE = "subset", "whole"  # the groups of splits that demo-subset and demo-full train on
TUNED = ("demo-subset", "demo-full")
QUERIES = (
    ("failures", ("model=demo-full", "limit=5")),
    ("hubs", ("model=demo-full", "limit=5")),
    ("metrics_by_category", ("model=demo-full", "direction=text_to_image")),
)

_TRAINED_ON = 5  # scenes drawn for training for each that is held out
_SHARE = 6  # the small subset is one in so many of them


def run_demo(
    folder: Path, *, images: int, seed: int, on_progress: Progress, on_epoch: Callable[[str, Any], None]
) -> dict[str, Any]:
    """Draw a data set into `folder`, then ingest, train, embed, evaluate and ask; what each step gave.

    `images` scenes are held out, five times as many are for training. Everything lies below `folder`: the scenes in
    COCO's layout, and a store. The same call again reuses the store.
    """
    scenes, store = folder / DATASET, Store((folder / "store").absolute())
    draw_dataset(scenes, images=images, seed=seed, split=HELD_OUT, shares=WORDED_ANEW)
    total = images * _TRAINED_ON
    draw_dataset(scenes, images=total, seed=seed, split=TRAINING, first=images + 1, shares=WORDED_ANEW)
    ingest_coco(store, scenes, name=DATASET)
    origin, held_out = f"{DATASET}/{TRAINING}", f"{DATASET}/{HELD_OUT}"
    draw_split(store, SUBSET, origin=origin, images=total // _SHARE, validation=0.2)
    draw_split(store, WHOLE, origin=origin, validation=0.1)
    trained = []
    for name in TUNED:
        options = TrainOptions(device="cpu", on_progress=on_progress, on_epoch=partial(on_epoch, name))
        trained.append(train(store, find_job(store, name), options))
    models = [BASE, *TUNED]
    summaries = embed(store, models, EmbedOptions(splits=(held_out,), devices=("cpu",), on_progress=on_progress))
    evaluations = evaluate(store, models, held_out, EvalOptions(on_progress=on_progress)).evaluations
    return {
        "folder": str(folder),
        "models": models,
        "split": held_out,
        "splits": run_query(store, "splits", ()).to_pylist(),
        "trained": [one.row() for one in trained],
        "embedded": [dataclasses.asdict(summary) for summary in summaries],
        "evaluations": evaluations,
        "queries": [
            {"name": name, "parameters": parameters, "rows": run_query(store, name, parameters).to_pylist()}
            for name, parameters in QUERIES
        ],
    }
