"""The training package against plain arithmetic: the loss, its gradient in chunks, the batches, the checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gradients import (
    NO_DROPOUT,
    TRAINING,
    assert_same_gradient,
    build_learner,
    plain_loss,
    read_gradient,
    reset_gradient,
)
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from clipstore.encoders.loading import load_model
from clipstore.encoders.lora import LoraModel
from clipstore.errors import ModelError, TrainingError
from clipstore.records import Lora, Model
from clipstore.training.batches import TrainingCaptions, batches, steps_per_epoch
from clipstore.training.checkpoints import recover_folder, replace_folder
from clipstore.training.gradients import (
    Batch,
    backward,
    contrastive_loss,
    restored_random_state,
    set_random_state,
)

NO_NEGATIVES = np.empty((0, 0), dtype=np.int64)


@examples(50)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans(), st.floats(0.1, 100))
def test_the_loss_is_info_nce(seed: int, size: int, masked: bool, scale: float) -> None:
    rng = np.random.default_rng(seed)
    images, texts = rng.normal(size=(2, size, 5))
    image = rng.integers(0, 4, size=size)
    numbers = torch.from_numpy(image) if masked else None
    loss = contrastive_loss(torch.from_numpy(images), torch.from_numpy(texts), torch.tensor(scale), numbers)
    assert loss.dtype == torch.float32
    expected = plain_loss(images, texts, scale, image.tolist() if masked else None)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_batch_of_one_image_has_no_negatives() -> None:
    vectors = torch.randn((3, 4), generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = contrastive_loss(vectors, vectors.flip(0), torch.tensor(10.0), torch.zeros(3, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


# ---- gradients ----


def random_batch(size: int, *, pixels: bool = False, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    ids = [[49406, *rng.integers(0, 49000, size=rng.integers(1, 20)).tolist(), 49407] for _ in range(size)]
    if pixels:
        images = torch.from_numpy(rng.integers(0, 256, size=(size, 224, 224, 3), dtype=np.uint8))
    else:
        images = torch.from_numpy(rng.normal(size=(size, 48)).astype(np.float32))
    return Batch(images=images, ids=ids, image=torch.from_numpy(rng.integers(0, max(2, size // 2), size=size)))


def gradient(
    learner: LoraModel, batch: Batch, chunk: int, *, mask: bool = False
) -> tuple[float, dict[str, torch.Tensor]]:
    reset_gradient(learner)
    return backward(learner, batch, chunk=chunk, mask_siblings=mask), read_gradient(learner)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("towers", [("text",), ("text", "vision")])
def test_the_gradient_in_chunks_equals_that_of_the_whole_batch(towers: tuple, mask: bool, small_clip: Path) -> None:
    learner = build_learner(small_clip, replace(NO_DROPOUT, lora=Lora(dropout=0.0, towers=towers)))
    batch = random_batch(23, pixels="vision" in towers)
    loss, whole = gradient(learner, batch, 64, mask=mask)
    assert len(whole) == len(learner.weights())
    assert all(value.norm() > 0 for value in whole.values())
    for chunk in (2, 7, 22):
        chunked_loss, chunked = gradient(learner, batch, chunk, mask=mask)
        assert chunked_loss == pytest.approx(loss, abs=1e-6)
        assert_same_gradient(whole, chunked)


def test_dropout_is_the_same_in_both_passes_of_a_chunk(small_clip: Path) -> None:
    learner = build_learner(small_clip, replace(NO_DROPOUT, lora=Lora(dropout=0.5)))
    batch = random_batch(12)
    order = sorted(range(12), key=lambda row: len(batch.ids[row]))
    torch.manual_seed(5)
    # The same chunks in one graph: all activations in memory, dropout drawn once.
    reset_gradient(learner)
    rows = [order[start : start + 5] for start in range(0, 12, 5)]
    texts = torch.cat([learner.text_vectors([batch.ids[row] for row in chunk]) for chunk in rows])
    contrastive_loss(learner.image_vectors(batch.images[order]), texts, learner.scale()).backward()
    expected = read_gradient(learner)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    _, chunked = gradient(learner, batch, 5)
    assert_same_gradient(expected, chunked)
    assert torch.equal(torch.get_rng_state(), after)
    torch.manual_seed(6)
    _, other_dropout = gradient(learner, batch, 5)
    assert any(not torch.allclose(other_dropout[name], chunked[name]) for name in chunked)


def test_padding_to_the_longest_text_changes_no_vector(small_clip: Path) -> None:
    learner = build_learner(small_clip, NO_DROPOUT)
    batch = random_batch(9)
    together = learner.text_vectors(batch.ids)
    separately = torch.cat([learner.text_vectors([ids]) for ids in batch.ids])
    assert torch.allclose(together, separately, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({}, set()),
        ({"heads": True}, {"text_projection.weight", "visual_projection.weight"}),
        ({"temperature": "trained"}, {"logit_scale"}),
    ],
)
def test_the_trained_weights_are_those_of_the_job(change: dict, trained: set[str], small_clip: Path) -> None:
    learner = LoraModel(load_model(Model(name="m", family="clip", base=str(small_clip))), replace(TRAINING, **change))
    names = learner.weights().keys()
    assert {name for name in names if "lora_" not in name} == trained
    lora = {name for name in names if "lora_" in name}
    assert len(lora) == 2 * 2 * 2  # two layers, q and v, A and B
    assert all(name.startswith("text_model.") and ("q_proj" in name or "v_proj" in name) for name in lora)


def test_an_unknown_module_is_refused_with_the_available_ones(small_clip: Path) -> None:
    with pytest.raises(ModelError, match=r"'query'.* fc1, fc2, k_proj, out_proj, q_proj, v_proj"):
        build_learner(small_clip, replace(TRAINING, lora=Lora(modules=("query",))))


def test_the_random_state_can_be_restored() -> None:
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    with restored_random_state():
        torch.manual_seed(2)
        torch.randn(5)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.parametrize("devices", [0, 1, 3])
def test_a_state_of_two_gpus_is_restored_on_any_machine(devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    state, restored = [torch.get_rng_state() for _ in range(3)], dict[int, torch.Tensor]()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new, number: restored.update({number: new}))
    set_random_state(state)
    assert list(restored) == list(range(min(2, devices)))
    assert all(restored[number] is state[1 + number] for number in restored)


# ---- batches ----


@given(st.integers(0, 5), st.integers(1, 100), st.integers(2, 40), st.integers(1, 4))
def test_an_epoch_has_every_caption_once(seed: int, captions: int, batch: int, epoch: int) -> None:
    training = replace(TRAINING, seed=seed, batch=batch)
    rows = list(batches(captions, training, epoch, NO_NEGATIVES))
    assert sorted(np.concatenate(rows).tolist()) == list(range(captions))
    assert len(rows) == steps_per_epoch(captions, training)
    assert all(len(part) == batch for part in rows[:-1])
    repeated = list(batches(captions, training, epoch, NO_NEGATIVES))
    assert all(np.array_equal(first, second) for first, second in zip(rows, repeated, strict=True))


def test_each_epoch_and_seed_has_its_own_order() -> None:
    orders = {
        tuple(np.concatenate(list(batches(50, replace(TRAINING, seed=seed), epoch, NO_NEGATIVES))).tolist())
        for seed in (0, 1)
        for epoch in (1, 2)
    }
    assert len(orders) == 4


@given(st.integers(0, 1000), st.integers(2, 60), st.integers(2, 20), st.integers(1, 3))
def test_hard_negatives_are_added_to_the_batch_of_their_caption(
    seed: int, captions: int, batch: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    negatives = rng.integers(-1, captions, size=(captions, 4))
    training = replace(TRAINING, seed=seed, batch=batch, hard_negatives=count)
    size = max(1, batch // (1 + count))
    without = replace(training, hard_negatives=0, batch=size)
    order = list(batches(captions, without, 1, negatives)) if size > 1 else None
    rows = list(batches(captions, training, 1, negatives))
    assert len(rows) == steps_per_epoch(captions, training)
    for number, part in enumerate(rows):
        assert len(set(part.tolist())) == len(part) <= max(batch, 1 + count)
        anchors = part[: min(size, captions - number * size)]
        if order:
            assert np.array_equal(anchors, order[number])
        allowed = {row for caption in anchors for row in negatives[caption].tolist() if row >= 0}
        assert set(part[len(anchors) :].tolist()) <= allowed
        for caption in anchors:
            available = {row for row in negatives[caption].tolist() if row >= 0}
            assert len(available & set(part.tolist())) >= min(count, len(available), 1)


def test_captions_have_their_tokens() -> None:
    ids = [[1, 2], [3], [4, 5, 6], [7]]
    captions = TrainingCaptions.of(ids, np.arange(4))
    assert len(captions) == 4
    assert captions.ids(np.array([2, 0, 3, 3])) == [ids[2], ids[0], ids[3], ids[3]]


# ---- checkpoints ----


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, lambda new: (new / "a").write_text("one"))

    def fail(new: Path) -> None:
        (new / "a").write_text("two")
        message = "no space"
        raise OSError(message)

    with pytest.raises(TrainingError, match="previous one is unchanged"):
        replace_folder(folder, fail)
    assert (folder / "a").read_text() == "one"
    assert sorted(file.name for file in folder.iterdir()) == ["SHA256SUMS", "a"]
    assert list(tmp_path.iterdir()) == [folder]
    replace_folder(folder, lambda new: (new / "b").write_text("three"))
    assert sorted(file.name for file in folder.iterdir()) == ["SHA256SUMS", "b"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_is_recovered_after_a_kill_between_the_renames(tmp_path: Path) -> None:
    folder = tmp_path / "best"
    replace_folder(folder, lambda new: (new / "a").write_text("one"))
    folder.rename(tmp_path / ".best.former")  # the state between the two renames
    recover_folder(folder)
    assert (folder / "a").read_text() == "one"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("chunk", [5, 64])
def test_the_gradient_on_cuda_equals_that_on_the_cpu(chunk: int, small_clip: Path) -> None:
    batch = random_batch(12)
    loss, expected = gradient(build_learner(small_clip, NO_DROPOUT), batch, 64)
    learner = LoraModel(load_model(Model(name="m", family="clip", base=str(small_clip))), NO_DROPOUT, device="cuda")
    weights = build_learner(small_clip, NO_DROPOUT).weights()
    with torch.no_grad():
        for name, weight in learner.weights().items():
            weight.copy_(weights[name])
    learner.train(on=True)
    cuda_loss, actual = gradient(learner, batch, chunk)
    assert cuda_loss == pytest.approx(loss, abs=1e-4)
    for name, value in expected.items():
        assert (value - actual[name].cpu()).norm() <= 1e-3 * value.norm() + 1e-9, name
