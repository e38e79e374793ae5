"""`clipstore demo`: from a synthetic dataset to fine-tuned models and their failures, by the commands' functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from clipstore.demo.scenes import draw_dataset
from clipstore.demo.wordings import MOSTLY_ORNATE
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.evaluate.options import EvalOptions
from clipstore.pipeline.evaluate.run import evaluate
from clipstore.pipeline.ingest.run import ingest_coco
from clipstore.pipeline.query import run_query
from clipstore.pipeline.split import draw_split
from clipstore.pipeline.train.run import TrainOptions, train
from clipstore.progress import Progress
from clipstore.records import Row
from clipstore.store.layout import Store
from clipstore.store.models import find_job

BASE, DATASET = "demo", "scenes"
HELD_OUT, TRAIN = "val", "train"  # splits of DATASET
SUBSET, WHOLE = "subset", "whole"  # groups of splits that demo-subset and demo-full are trained on
TRAINED_MODELS = ("demo-subset", "demo-full")
QUERIES = (
    ("failures", ("model=demo-full", "limit=5")),
    ("hubs", ("model=demo-full", "limit=5")),
    ("metrics_by_category", ("model=demo-full", "direction=text_to_image")),
)

_TRAINING_SCENES = 5  # per held-out scene
_SUBSET_SHARE = 6  # SUBSET has one in so many of the training scenes


def run_demo(
    folder: Path, *, images: int, seed: int, on_progress: Progress, on_epoch: Callable[[str, Any], None]
) -> Row:
    """Draw a dataset into `folder`, then ingest, train, embed, evaluate and query; the results of all steps.

    `images` scenes are held out, and five times as many are drawn for training. `folder` gets the scenes in COCO's
    layout and a store. A second call with the same arguments reuses the store.
    """
    scenes, store = folder / DATASET, Store((folder / "store").absolute())
    draw_dataset(scenes, images=images, seed=seed, split=HELD_OUT, shares=MOSTLY_ORNATE)
    total = images * _TRAINING_SCENES
    draw_dataset(scenes, images=total, seed=seed, split=TRAIN, first=images + 1, shares=MOSTLY_ORNATE)
    ingest_coco(store, scenes, name=DATASET)
    origin, held_out = f"{DATASET}/{TRAIN}", f"{DATASET}/{HELD_OUT}"
    draw_split(store, SUBSET, origin=origin, images=total // _SUBSET_SHARE, validation=0.2)
    draw_split(store, WHOLE, origin=origin, validation=0.1)
    trained = []
    for name in TRAINED_MODELS:
        options = TrainOptions(device="cpu", on_progress=on_progress, on_epoch=partial(on_epoch, name))
        trained.append(train(store, find_job(store, name), options))
    models = [BASE, *TRAINED_MODELS]
    summaries = embed(store, models, EmbedOptions(splits=(held_out,), devices=("cpu",), on_progress=on_progress))
    evaluations = evaluate(store, models, held_out, EvalOptions(on_progress=on_progress)).evaluations
    return {
        "folder": str(folder),
        "models": models,
        "split": held_out,
        "splits": run_query(store, "splits", ()).to_pylist(),
        "trained": [summary.row() for summary in trained],
        "embedded": [dataclasses.asdict(summary) for summary in summaries],
        "evaluations": evaluations,
        "queries": [
            {"name": name, "parameters": parameters, "rows": run_query(store, name, parameters).to_pylist()}
            for name, parameters in QUERIES
        ],
    }
