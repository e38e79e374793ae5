"""`mask_duplicates`: captions with equal tokens are not used as each other's negatives."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradients import NO_DROPOUT, assert_same_gradient, build_learner, plain_loss, read_gradient, reset_gradient
from helpers import examples, write_job
from hypothesis import given
from hypothesis import strategies as st

from clipstore.demo.scenes import draw_dataset
from clipstore.training.gradients import Batch, backward, contrastive_loss

Run = Callable[..., Any]


@examples(100)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans(), st.booleans(), st.floats(0.1, 50))
def test_the_loss_leaves_out_equal_texts(seed: int, size: int, siblings: bool, duplicates: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, size, 5))
    masks = [rng.integers(0, 4, size=size) if on else None for on in (siblings, duplicates)]
    tensors = [None if mask is None else torch.from_numpy(mask) for mask in masks]
    loss = contrastive_loss(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(scale), *tensors)
    expected = plain_loss(images, texts, scale, *(None if mask is None else mask.tolist() for mask in masks))
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def batch_with_duplicates(size: int) -> Batch:
    """Pairs in which every third caption is one of four texts, with different images."""
    rng = np.random.default_rng(3)
    ids = [[49406, *rng.integers(0, 49000, size=rng.integers(1, 20)).tolist(), 49407] for _ in range(size)]
    repeated = [ids[row] for row in range(4)]
    ids = [repeated[int(rng.integers(4))] if row % 3 == 0 else text for row, text in enumerate(ids)]
    images = torch.from_numpy(rng.normal(size=(size, 48)).astype(np.float32))
    return Batch(images=images, ids=ids, image=torch.from_numpy(rng.integers(0, size // 2, size=size)))


def test_rows_with_equal_tokens_have_equal_numbers() -> None:
    batch = replace(batch_with_duplicates(4), ids=[[1, 2], [1], [1, 2], [2, 1]])
    assert batch.text_numbers().tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("siblings", [False, True])
def test_the_gradient_in_chunks_masks_the_same_pairs(siblings: bool, small_clip: Path) -> None:
    """The loss is the same in one piece, in chunks, and pair by pair; and the mask has an effect."""
    learner, batch = build_learner(small_clip, NO_DROPOUT), batch_with_duplicates(21)
    results = []
    for chunk in (64, 5):
        reset_gradient(learner)
        loss = backward(learner, batch, chunk=chunk, mask_siblings=siblings, mask_duplicates=True)
        results.append((loss, read_gradient(learner)))
    with torch.no_grad():
        images, texts = learner.image_vectors(batch.images).numpy(), learner.text_vectors(batch.ids).numpy()
        scale = learner.scale().item()
    text = [batch.ids.index(ids) for ids in batch.ids]
    image = batch.image.tolist() if siblings else None
    (loss, whole), (chunked_loss, chunked) = results
    assert loss == pytest.approx(plain_loss(images, texts, scale, image, text), rel=1e-5)
    assert loss == pytest.approx(chunked_loss, abs=1e-6)
    assert_same_gradient(whole, chunked)
    assert loss < backward(learner, batch, chunk=64, mask_siblings=siblings) - 1e-3


@pytest.mark.full
def test_a_job_trains_with_the_mask_and_hard_negatives(workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    """Captions of different images that cleaning makes equal are no negatives: the first loss is lower."""
    draw_dataset(workspace / "x", images=10, seed=9, split="v")
    names = sorted(file.name for file in (workspace / "x" / "v").iterdir())
    texts = [("A Scene!" if number % 2 else "a scene", f"scene number {number}") for number in range(10)]
    rows = [f"v/{name},{text}\n" for name, pair in zip(names, texts, strict=True) for text in pair]
    (workspace / "x" / "x.csv").write_text("image_path,caption\n" + "".join(rows))
    cli("ingest", "csv", workspace / "x" / "x.csv")
    settings = 'split = "x/all"\nepochs = 1\nbatch = 40\nchunk = 8\nhard_negatives = 1\nmask_duplicates = '
    losses = {}
    for masked in ("true", "false"):
        file = write_job(f"mask-{masked}", settings + masked, lora="dropout = 0.0")
        file.write_text(file.read_text().replace("[train]", "clean = true\n[train]", 1))
        losses[masked] = cli_json("train", "--model", f"mask-{masked}")["history"][1]["loss"]
    assert losses["true"] < losses["false"] - 0.1
    shutil.copytree(store / "adapters" / "mask-true", store / "adapters" / "mask-false", dirs_exist_ok=True)
    assert "mask_duplicates true, now false" in cli("train", "--model", "mask-false", code=1).stderr
