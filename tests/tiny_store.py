"""A small store with random vectors."""

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
    for kind, rows_of_kind in (("image", vectors[:IMAGES]), ("caption", vectors[IMAGES:])):
        ids = clipstore.open(store).sql(f"SELECT source_id FROM {kind}s ORDER BY {kind}_id")["source_id"].to_pylist()
        np.save(folder / f"{kind}.npy", rows_of_kind)
        np.save(folder / f"{kind}_ids.npy", np.array(ids))
        words += [f"--{kind}s", folder / f"{kind}.npy", f"--{kind}-ids", folder / f"{kind}_ids.npy"]
    run_command(store, "import", "m", "--split", SPLIT, *words)
    if evaluated:
        run_command(store, "eval", "--model", "m", "--split", SPLIT)
    return store
