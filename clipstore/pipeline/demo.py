"""`clipstore demo`: the main job on drawn scenes, by the very functions that the commands call."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from clipstore.demo.scenes import draw_dataset
from clipstore.pipeline.embed import EmbedOptions, embed
from clipstore.pipeline.evaluate import EvalOptions, evaluate
from clipstore.pipeline.ingest import ingest_coco
from clipstore.pipeline.progress import Progress
from clipstore.pipeline.query import run_query
from clipstore.pipeline.store import Store

MODEL, DATASET, SPLIT, SEED = "demo", "scenes", "val", 1
QUERIES = (("failures", ("limit=5",)), ("hubs", ("limit=5",)), ("metrics_by_category", ("direction=text_to_image",)))


def run_demo(folder: Path, *, images: int, on_progress: Progress) -> dict[str, Any]:
    """Draw a data set into `folder`, then ingest, embed, evaluate and ask; what each step gave.

    Everything lies below `folder`: the scenes in COCO's layout, and a store. The same call again reuses the store.
    """
    scenes, store = folder / DATASET, Store((folder / "store").absolute())
    split = f"{DATASET}/{SPLIT}"
    draw_dataset(scenes, images=images, seed=SEED, split=SPLIT)
    ingested = ingest_coco(store, scenes, name=DATASET)
    summaries = embed(store, [MODEL], EmbedOptions(on_progress=on_progress))
    evaluations = evaluate(store, [MODEL], split, EvalOptions(on_progress=on_progress))
    return {
        "folder": str(folder),
        "model": MODEL,
        "split": split,
        "splits": ingested.splits,
        "embedded": [dataclasses.asdict(summary) for summary in summaries],
        "evaluations": evaluations,
        "queries": [
            {"name": name, "parameters": parameters, "rows": run_query(store, name, parameters).to_pylist()}
            for name, parameters in QUERIES
        ],
    }
