"""The training room against plain arithmetic: the loss, its gradient in chunks, the batches, the checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gradients import STILL, TRAINING, assert_same_gradient, tuned
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from clipstore.encoders.lora import LoraClip
from clipstore.errors import ModelError, TrainingError
from clipstore.records import Lora, Model
from clipstore.training.batches import Captions, batches, steps_of
from clipstore.training.checkpoints import replace_folder, settle
from clipstore.training.gradients import Batch, backward, contrastive_loss


def plain_loss(images: np.ndarray, texts: np.ndarray, scale: float, image: list[int] | None) -> float:
    """InfoNCE pair by pair, in float64."""
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    total = 0.0
    for one, other in ((images, texts), (texts, images)):
        for i in range(len(one)):
            others = [j for j in range(len(one)) if j == i or image is None or image[j] != image[i]]
            scores = {j: scale * float(one[i] @ other[j]) for j in others}
            total += np.log(sum(np.exp(score - scores[i]) for score in scores.values())) / len(one)
    return total / 2


@examples(50)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans(), st.floats(0.1, 100))
def test_the_loss_is_info_nce(seed: int, size: int, masked: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, size, 5))
    image = rng.integers(0, 4, size=size)
    numbers = torch.from_numpy(image) if masked else None
    got = contrastive_loss(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(scale), numbers)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(
        plain_loss(images, texts, scale, image.tolist() if masked else None), rel=1e-4, abs=1e-5
    )


def test_a_batch_of_one_image_alone_has_no_negatives_left() -> None:
    vectors = torch.randn((3, 4), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = contrastive_loss(vectors, vectors.flip(0), torch.tensor(10.0), torch.zeros(3, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


# ---- gradients ----


def made_batch(learner: LoraClip, size: int, *, pixels: bool = False, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    ids = [[49406, *rng.integers(0, 49000, size=rng.integers(1, 20)).tolist(), 49407] for _ in range(size)]
    if pixels:
        images = torch.from_numpy(rng.integers(0, 256, size=(size, 224, 224, 3), dtype=np.uint8))
    else:
        images = torch.from_numpy(rng.normal(size=(size, 48)).astype(np.float32))
    return Batch(images=images, ids=ids, image=torch.from_numpy(rng.integers(0, max(2, size // 2), size=size)))


def gradient(
    learner: LoraClip, batch: Batch, chunk: int, *, mask: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    for weight in learner.weights().values():
        weight.grad = None
    loss = backward(learner, batch, chunk=chunk, mask_siblings=mask)
    return loss, {name: weight.grad.clone() for name, weight in learner.weights().items() if weight.grad is not None}


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("towers", [("text",), ("text", "vision")])
def test_a_gradient_in_chunks_is_that_of_the_whole_batch(towers: tuple, mask: bool, small_clip: Path) -> None:
    learner = tuned(small_clip, replace(STILL, lora=Lora(dropout=0.0, towers=towers)))
    batch = made_batch(learner, 23, pixels="vision" in towers)
    loss, whole = gradient(learner, batch, 64, mask=mask)
    assert len(whole) == len(learner.weights())
    assert all(value.norm() > 0 for value in whole.values())
    for chunk in (2, 7, 22):
        again, parts = gradient(learner, batch, chunk, mask=mask)
        assert again == pytest.approx(loss, abs=1e-6)
        assert_same_gradient(whole, parts)


def test_dropout_falls_alike_in_both_passes_of_a_chunk(small_clip: Path) -> None:
    learner = tuned(small_clip, replace(STILL, lora=Lora(dropout=0.5)))
    batch = made_batch(learner, 12)
    order = sorted(range(12), key=lambda row: len(batch.ids[row]))
    torch.manual_seed(5)
    # The same chunks in one graph: every activation held, dropout drawn once.
    for weight in learner.weights().values():
        weight.grad = None
    rows = [order[start : start + 5] for start in range(0, 12, 5)]
    texts = torch.cat([learner.text_vectors([batch.ids[row] for row in part]) for part in rows])
    contrastive_loss(learner.image_vectors(batch.images[order]), texts, learner.scale()).backward()
    held = {name: weight.grad.clone() for name, weight in learner.weights().items()}
    after = torch.get_rng_state()
    torch.manual_seed(5)
    _, parts = gradient(learner, batch, 5)
    assert_same_gradient(held, parts)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(6)
    _, otherwise = gradient(learner, batch, 5)
    assert any(not torch.allclose(otherwise[name], parts[name]) for name in parts)


def test_padding_to_the_longest_changes_no_loss(small_clip: Path) -> None:
    learner = tuned(small_clip, STILL)
    batch = made_batch(learner, 9)
    together = learner.text_vectors(batch.ids)
    alone = torch.cat([learner.text_vectors([one]) for one in batch.ids])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "learns"),
    [
        ({}, set()),
        ({"heads": True}, {"text_projection.weight", "visual_projection.weight"}),
        ({"temperature": "trained"}, {"logit_scale"}),
    ],
)
def test_what_learns_is_what_the_job_says(change: dict, learns: set[str], small_clip: Path) -> None:
    learner = LoraClip(Model(name="m", family="clip", base=str(small_clip)), replace(TRAINING, **change))
    names = learner.weights().keys()
    assert {name for name in names if "lora_" not in name} == learns
    lora = {name for name in names if "lora_" in name}
    assert len(lora) == 2 * 2 * 2  # two layers, q and v, A and B
    assert all(name.startswith("text_model.") and ("q_proj" in name or "v_proj" in name) for name in lora)


def test_a_module_that_is_not_there_is_refused_with_those_that_are(small_clip: Path) -> None:
    with pytest.raises(ModelError, match=r"'query'.*there are fc1, fc2, k_proj, out_proj, q_proj, v_proj"):
        LoraClip(Model(name="m", family="clip", base=str(small_clip)), replace(TRAINING, lora=Lora(modules=("query",))))


# ---- batches ----


@given(st.integers(0, 5), st.integers(1, 100), st.integers(2, 40), st.integers(1, 4))
def test_an_epoch_holds_every_caption_once(seed: int, captions: int, batch: int, epoch: int) -> None:
    training = replace(TRAINING, seed=seed, batch=batch)
    nothing = np.empty((0, 0), dtype=np.int64)
    rows = list(batches(captions, training, epoch, nothing))
    assert sorted(np.concatenate(rows).tolist()) == list(range(captions))
    assert len(rows) == steps_of(captions, training)
    assert all(len(one) == batch for one in rows[:-1])
    again = list(batches(captions, training, epoch, nothing))
    assert all(np.array_equal(one, other) for one, other in zip(rows, again, strict=True))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    nothing = np.empty((0, 0), dtype=np.int64)
    orders = {
        tuple(np.concatenate(list(batches(50, replace(TRAINING, seed=seed), epoch, nothing))).tolist())
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len(orders) == 4


@given(st.integers(0, 1000), st.integers(2, 60), st.integers(2, 20), st.integers(1, 3))
def test_hard_negatives_stand_beside_their_caption(seed: int, captions: int, batch: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    wrong = rng.integers(-1, captions, size=(captions, 4))
    training = replace(TRAINING, seed=seed, batch=batch, hard_negatives=count)
    own = max(1, batch // (1 + count))
    order = list(batches(captions, replace(training, hard_negatives=0, batch=own), 1, wrong)) if own > 1 else None
    rows = list(batches(captions, training, 1, wrong))
    assert len(rows) == steps_of(captions, training)
    for number, one in enumerate(rows):
        assert len(set(one.tolist())) == len(one) <= max(batch, 1 + count)
        asked = one[: min(own, captions - number * own)]
        if order:
            assert np.array_equal(asked, order[number])
        allowed = {row for caption in asked for row in wrong[caption].tolist() if row >= 0}
        assert set(one[len(asked) :].tolist()) <= allowed
        for caption in asked:
            there = {row for row in wrong[caption].tolist() if row >= 0}
            assert len(there & set(one.tolist())) >= min(count, len(there), 1)


def test_captions_keep_their_tokens() -> None:
    ids = [[1, 2], [3], [4, 5, 6], [7]]
    captions = Captions.of(ids, np.arange(4))
    assert len(captions) == 4
    assert captions.ids(np.array([2, 0, 3, 3])) == [ids[2], ids[0], ids[3], ids[3]]


# ---- checkpoints ----


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, lambda place: (place / "a").write_text("one"))

    def fail(place: Path) -> None:
        (place / "a").write_text("two")
        message = "no space"
        raise OSError(message)

    with pytest.raises(TrainingError, match="the one before is as it was"):
        replace_folder(folder, fail)
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("a", "one")]
    assert list(tmp_path.iterdir()) == [folder]
    replace_folder(folder, lambda place: (place / "b").write_text("three"))
    assert [file.name for file in folder.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_killed_run_put_aside_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, lambda place: (place / "a").write_text("one"))
    folder.rename(tmp_path / ".best.former")  # where a kill between the two renames leaves it
    settle(folder)
    assert (folder / "a").read_text() == "one"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("chunk", [5, 64])
def test_cuda_gives_the_gradient_of_the_cpu(chunk: int, small_clip: Path) -> None:
    batch = made_batch(tuned(small_clip, STILL), 12)
    loss, ours = gradient(tuned(small_clip, STILL), batch, 64)
    learner = LoraClip(Model(name="m", family="clip", base=str(small_clip)), STILL, device="cuda")
    held = tuned(small_clip, STILL).weights()
    with torch.no_grad():
        for name, weight in learner.weights().items():
            weight.copy_(held[name])
    learner.train(on=True)
    there, theirs = gradient(learner, batch, chunk)
    assert there == pytest.approx(loss, abs=1e-4)
    for name, value in ours.items():
        assert (value - theirs[name].cpu()).norm() <= 1e-3 * value.norm() + 1e-9, name
