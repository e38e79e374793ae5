"""`mask_duplicates`: captions that the text tower reads alike are not each other's negatives."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gradients import STILL, assert_same_gradient, tuned
from helpers import examples, write_job
from hypothesis import given
from hypothesis import strategies as st

from clipstore.demo.scenes import draw_dataset
from clipstore.training.gradients import Batch, backward, contrastive_loss

Rows = Sequence[int]
Run = Callable[..., Any]


def plain_loss(images: np.ndarray, texts: np.ndarray, scale: float, image: Rows | None, text: Rows | None) -> float:
    """InfoNCE pair by pair, in float64; two rows with one number of `image` or of `text` are not negatives."""
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(images)):
        kept = [i]
        for j in range(len(images)):
            alike = [numbers[i] == numbers[j] for numbers in (image, text) if numbers is not None]
            if j != i and not any(alike):
                kept.append(j)
        for one, others in ((images[i], texts), (texts[i], images)):
            scores = [scale * float(one @ others[j]) for j in kept]
            total += np.log(sum(np.exp(score - scores[0]) for score in scores)) / len(images)
    return total / 2


@examples(100)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans(), st.booleans(), st.floats(0.1, 50))
def test_the_loss_leaves_out_equal_texts(seed: int, size: int, siblings: bool, duplicates: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, size, 5))
    image, text = (rng.integers(0, 4, size=size) if on else None for on in (siblings, duplicates))
    numbers = [None if one is None else torch.from_numpy(one) for one in (image, text)]
    got = contrastive_loss(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(scale), *numbers)
    expected = plain_loss(images, texts, scale, *(None if one is None else one.tolist() for one in (image, text)))
    assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def batch_with_duplicates(size: int) -> Batch:
    """Pairs of which each third caption is one of four texts, at images of their own."""
    rng = np.random.default_rng(3)
    ids = [[49406, *rng.integers(0, 49000, size=rng.integers(1, 20)).tolist(), 49407] for _ in range(size)]
    same = [ids[row] for row in range(4)]
    ids = [same[int(rng.integers(4))] if row % 3 == 0 else one for row, one in enumerate(ids)]
    images = torch.from_numpy(rng.normal(size=(size, 48)).astype(np.float32))
    return Batch(images=images, ids=ids, image=torch.from_numpy(rng.integers(0, size // 2, size=size)))


def test_rows_share_a_number_where_their_tokens_are_the_same() -> None:
    batch = replace(batch_with_duplicates(4), ids=[[1, 2], [1], [1, 2], [2, 1]])
    assert batch.texts().tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize("siblings", [False, True])
def test_the_gradient_in_chunks_masks_the_same_pairs(siblings: bool, small_clip: Path) -> None:
    """In one piece, in chunks and by the oracle: the same loss; and the mask has an effect."""
    learner, batch = tuned(small_clip, STILL), batch_with_duplicates(21)
    masks = {"mask_siblings": siblings, "mask_duplicates": True}
    found = []
    for chunk in (64, 5):
        for weight in learner.weights().values():
            weight.grad = None
        loss = backward(learner, batch, chunk=chunk, **masks)
        found.append((loss, {name: weight.grad.clone() for name, weight in learner.weights().items()}))
    with torch.no_grad():
        images, texts = learner.image_vectors(batch.images).numpy(), learner.text_vectors(batch.ids).numpy()
        scale = learner.scale().item()
    text = [[tuple(one) for one in batch.ids].index(tuple(one)) for one in batch.ids]
    image = batch.image.tolist() if siblings else None
    assert found[0][0] == pytest.approx(plain_loss(images, texts, scale, image, text), rel=1e-5)
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert_same_gradient(found[0][1], found[1][1])
    assert found[0][0] < backward(learner, batch, chunk=64, mask_siblings=siblings) - 1e-3


def test_a_job_trains_with_the_mask_beside_hard_negatives(
    workspace: Path, store: Path, cli: Run, cli_json: Run
) -> None:
    """Captions that cleaning makes equal, at images of their own, are no negatives: the first loss is lower."""
    draw_dataset(workspace / "x", images=10, seed=9, split="v")
    photos = sorted(file.name for file in (workspace / "x" / "v").iterdir())
    texts = [("A Scene!" if number % 2 else "a scene", f"scene number {number}") for number in range(10)]
    rows = [f"v/{photo},{text}\n" for photo, pair in zip(photos, texts, strict=True) for text in pair]
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
    assert "mask_duplicates true, the job says false" in cli("train", "--model", "mask-false", code=1).stderr
