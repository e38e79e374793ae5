"""A store of few made vectors, for tests of what is done with a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from helpers import run_command

import clipstore

SPLIT = "s/all"
IMAGES, CAPTIONS = 20, 40


def build_store(folder: Path, *, evaluated: bool = False) -> Path:
    """A store with the split s/all (20 images with two captions each) and a model m of imported vectors."""
    store, table = folder / "store", folder / "s.csv"
    rows = [f"{image:02}.jpg,{word} {image}" for image in range(IMAGES) for word in ("one", "two")]
    table.write_text("\n".join(["image_path,caption", *rows]))
    run_command(store, "ingest", "csv", table)
    words: list[object] = []
    vectors = np.random.default_rng(0).normal(size=(IMAGES + CAPTIONS, 8)).astype(np.float32)
    for what, rows_of in (("image", vectors[:IMAGES]), ("caption", vectors[IMAGES:])):
        ids = clipstore.open(store).sql(f"SELECT source_id FROM {what}s ORDER BY {what}_id")["source_id"].to_pylist()
        np.save(folder / f"{what}.npy", rows_of)
        np.save(folder / f"{what}_ids.npy", np.array(ids))
        words += [f"--{what}s", folder / f"{what}.npy", f"--{what}-ids", folder / f"{what}_ids.npy"]
    run_command(store, "import", "m", "--split", SPLIT, *words)
    if evaluated:
        run_command(store, "eval", "--model", "m", "--split", SPLIT)
    return store
