"""A small store with two evaluated models, and source files for every ingest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import write_dataset, write_job

import clipstore

KARPATHY = {
    "dataset": "k",
    "images": [
        {
            "filename": "a.jpg",
            "imgid": 0,
            "split": "test",
            "sentids": [0],
            "sentences": [{"imgid": 0, "sentid": 0, "raw": "A dog."}],
        }
    ],
}


@pytest.fixture(scope="session")
def prepared(training_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, in which demo and other (imported) are evaluated on t/val, and with source files."""
    place = tmp_path_factory.mktemp("api") / "place"
    shutil.copytree(training_store, place / "store")
    shutil.copytree(training_store.parent / "scenes", place / "scenes")
    store = clipstore.open(place / "store")
    sides = {}
    for kind in ("images", "captions"):
        ids, vectors = store.vectors("demo", "t/val", kind)
        noise = np.random.default_rng(0).normal(scale=0.1, size=vectors.shape)
        sides[kind] = (vectors + noise).astype(np.float32)
        np.save(place / f"{kind}.npy", sides[kind])
        np.save(place / f"{kind}_ids.npy", ids)
    store.import_vectors(
        "other",
        "t/val",
        images=sides["images"],
        image_ids=place / "images_ids.npy",
        captions=str(place / "captions.npy"),
        caption_ids=np.load(place / "captions_ids.npy"),
    )
    store.evaluate(["demo", "other"], "t/val")
    store.add_model("again", base="bundled:demo")
    store.embed("again", split="t/val")
    store.zeroshot(["demo", "again"], "t/val")
    (place / "templates.txt").write_text("one {}\ntwo {}\n")
    write_dataset(place, "table", {"a": {"a1": (1.0,)}, "b": {"b1": (1.0,), "b2": (1.0,)}})
    (place / "k.json").write_text(json.dumps(KARPATHY))
    (place / "hard.csv").write_text("image_path,positive,negative\na.jpg,A dog.,A cat.\n")
    (place / "crepe").mkdir()
    entry = {"filename": "a.jpg", "caption": "A dog.", "negative_caption": "A cat."}
    (place / "crepe" / "add_att.json").write_text(json.dumps({"0": entry}))
    (place / "flickr" / "Flicker8k_Dataset").mkdir(parents=True)
    (place / "flickr" / "Flickr8k.token.txt").write_text("a.jpg#0\tA dog .\na.jpg#1\tThe dog .\n")
    (place / "jobs").mkdir()
    (place / "jobs" / "whole.toml").write_text('[model]\nbase = "bundled:demo"\n[eval]\nsplits = ["t/val"]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_job("quick", "epochs = 1")
    return place


@pytest.fixture
def place(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `prepared`, which is the working folder."""
    place = shutil.copytree(prepared, tmp_path / "place")
    monkeypatch.chdir(place)
    return place
