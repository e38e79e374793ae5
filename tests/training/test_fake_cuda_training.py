"""Training on a fake device: a tensor on the wrong device or a missing copy is an error.

torch without CUDA does not differentiate tensors on "cuda": see fake_cuda.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fake_cuda import TRAINED, fake_card
from family_folders import SMALL
from gradients import NO_DROPOUT
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from clipstore.encoders.families import recognise
from clipstore.encoders.loading import LoadedModel, load_model
from clipstore.encoders.lora import LoraModel
from clipstore.errors import TrainingError
from clipstore.records import Lora, Model, Training
from clipstore.training.batches import TrainingCaptions
from clipstore.training.fit import FitInputs, fit
from clipstore.training.gradients import Batch, backward

PAIRS = 12
META = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")  # into a fake one, which is right
TRAINING = replace(NO_DROPOUT, batch=PAIRS, chunk=5, mask_siblings=True, mask_duplicates=True)


@pytest.fixture
def loaded(small_clip: Path) -> LoadedModel:
    return load_model(Model(name="m", family="clip", base=str(small_clip)))


def token_ids(count: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [[49406, *rng.integers(0, 49000, size=rng.integers(1, 20)).tolist(), 49407] for _ in range(count)]


def batch_of(*, pixels: bool) -> Batch:
    images = torch.zeros((PAIRS, 224, 224, 3), dtype=torch.uint8) if pixels else torch.zeros((PAIRS, 48))
    return Batch(images=images, ids=token_ids(PAIRS), image=torch.arange(PAIRS) // 2)


def step(learner: LoraModel, chunk: int) -> float:
    learner.train(on=True)
    batch = batch_of(pixels=learner.trains_vision)
    return backward(learner, batch, chunk=chunk, mask_siblings=True, mask_duplicates=True)


@pytest.mark.parametrize("chunk", [5, PAIRS])
@pytest.mark.parametrize("towers", [("text",), ("text", "vision")])
def test_a_gradient_is_computed_on_the_device(towers: tuple[str, ...], chunk: int, loaded: LoadedModel) -> None:
    with fake_card():
        learner = LoraModel(loaded, replace(NO_DROPOUT, lora=Lora(towers=towers)), device=TRAINED)
        loss = step(learner, chunk)
        gradients = [weight.grad for weight in learner.weights().values()]
    assert isinstance(loss, float)
    assert all(gradient is not None and gradient.device.type == TRAINED for gradient in gradients)


@pytest.mark.parametrize("name", SMALL)
def test_every_family_is_trained_on_the_device(name: str, tmp_path: Path) -> None:
    folder = SMALL[name](tmp_path / name)
    base = load_model(Model(name="m", family=recognise(folder, str(folder)).name, base=str(folder)))
    modules = ("query", "value") if name == "blip" else ("q_proj", "v_proj")
    towers = ("text",) if name == "naflex" else ("text", "vision")
    with fake_card():
        learner = LoraModel(
            base, replace(TRAINING, temperature="frozen", lora=Lora(modules=modules, towers=towers)), device=TRAINED
        )
        learner.train(on=True)
        side = learner.encoder.preprocessing.crop if learner.trains_vision else ()
        images = torch.zeros((PAIRS, *side, 3), dtype=torch.uint8) if side else torch.zeros((PAIRS, 32))
        ids = [learner.encoder.tokenize([f"{number} dogs" * number]).ids[0] for number in range(1, 1 + PAIRS)]
        batch = Batch(images=images, ids=ids, image=torch.arange(PAIRS) // 2)
        assert isinstance(backward(learner, batch, chunk=5, mask_siblings=True), float)


def _inputs_stay(learner: LoraModel) -> None:
    learner.encoder.device = torch.device("cpu")


def _adapter_stays(learner: LoraModel) -> None:
    layer = next(module for name, module in learner._model.named_modules() if name.endswith("lora_B.default"))
    layer.weight = torch.nn.Parameter(layer.weight.cpu())


def _head_stays(learner: LoraModel) -> None:
    learner._model.text_projection.weight = torch.nn.Parameter(learner._model.text_projection.weight.cpu())


@pytest.mark.parametrize("misplace", [_inputs_stay, _adapter_stays, _head_stays])
@pytest.mark.parametrize("chunk", [5, PAIRS])
def test_a_misplaced_tensor_is_an_error(misplace: Callable[[LoraModel], None], chunk: int, loaded: LoadedModel) -> None:
    with fake_card():
        learner = LoraModel(loaded, NO_DROPOUT, device=TRAINED)
        misplace(learner)
        with pytest.raises(FakeTensorDeviceMismatchError, match="at least two devices"):
            step(learner, chunk)


class TrainingInterruptedError(Exception):
    """Ends a training that is to be resumed."""


def inputs_of(training: Training, folder: Path, *, end: int, notes: list[str]) -> FitInputs:
    """A fixed small set; the training ends after the step `end`, as an interruption would end it."""
    features = torch.zeros(PAIRS, 48)

    def on_step(done: int, total: int, words: str) -> None:
        if done == end:
            raise TrainingInterruptedError

    return FitInputs(
        images=lambda numbers: features[torch.from_numpy(numbers)],
        validate=lambda: {training.watch: 0.5},
        find_negatives=lambda _: np.empty((0, 0), dtype=np.int64),
        folder=folder,
        image_contents=["a"] * PAIRS,
        record=record_of(training),
        on_step=on_step,
        on_epoch=lambda _: None,
        on_note=notes.append,
    )


def train(learner: LoraModel, training: Training, folder: Path, *, end: int) -> list[str]:
    """Train until the step `end`; the notes."""
    captions, notes = TrainingCaptions.of(token_ids(2 * PAIRS), np.arange(2 * PAIRS) // 2), list[str]()
    with suppress(TrainingInterruptedError):
        fit(learner, captions, training, inputs_of(training, folder, end=end, notes=notes))
    return notes


def record_of(training: Training) -> dict:
    images = {"count": PAIRS, "digest": "d"}
    return {"base_digest": "b", "training": asdict(training), "text": {}, "splits": {}, "training_images": images}


@pytest.fixture
def checkpoint(loaded: LoadedModel, tmp_path: Path) -> Path:
    """The folder of a training on the CPU, complete after one epoch of two steps."""
    training = replace(TRAINING, epochs=1)
    train(LoraModel(loaded, training), training, tmp_path / "m", end=99)
    return tmp_path / "m"


def resume(small_clip: Path, checkpoint: Path) -> list[str]:
    """Resume it for a second epoch, which is not saved."""
    loaded, training = load_model(Model(name="m", family="clip", base=str(small_clip))), replace(TRAINING, epochs=2)
    with fake_card():
        return train(LoraModel(loaded, training, device=TRAINED), training, checkpoint, end=4)


@META
def test_a_training_resumes_on_the_device(checkpoint: Path, small_clip: Path) -> None:
    assert "epochs" in resume(small_clip, checkpoint)[0]


@META
def test_an_optimizer_that_stays_on_the_host_is_an_error(checkpoint: Path, small_clip: Path) -> None:
    stay = staticmethod(lambda *arguments, **_: arguments[1])
    with (
        patch.object(torch.optim.Optimizer, "_process_value_according_to_param_policy", stay),
        pytest.raises(FakeTensorDeviceMismatchError, match="at least two devices"),
    ):
        resume(small_clip, checkpoint)


# ---- memory ----


class SmallMemory(LoraModel):
    """A model in training on a device without memory for the activations of more than `most` captions."""

    most = PAIRS

    def text_vectors(self, ids: list[list[int]]) -> torch.Tensor:
        if len(ids) > self.most and torch.is_grad_enabled():
            message = "CUDA out of memory."
            raise torch.OutOfMemoryError(message)
        return super().text_vectors(ids)


def test_chunks_are_halved_until_they_fit_with_the_same_gradient(small_clip: Path, tmp_path: Path) -> None:
    training = replace(TRAINING, chunk=64)
    weights, notes = {}, {}
    for most in (PAIRS, 3):
        loaded = load_model(Model(name="m", family="clip", base=str(small_clip)))
        learner = SmallMemory(loaded, training)
        learner.most = most
        notes[most] = train(learner, training, tmp_path / str(most), end=2)
        weights[most] = {name: weight.detach() for name, weight in learner.weights().items()}
    assert notes[PAIRS] == []
    assert [note.split(" do not fit")[0] for note in notes[3]] == ["12 captions at once", "6 captions at once"]
    for name, weight in weights[PAIRS].items():
        torch.testing.assert_close(weights[3][name], weight, rtol=1e-3, atol=1e-5)


def test_a_device_without_memory_for_one_pair_is_an_error(loaded: LoadedModel, tmp_path: Path) -> None:
    learner = SmallMemory(loaded, TRAINING)
    learner.most = 0
    with pytest.raises(TrainingError, match="out of device memory for a single pair"):
        train(learner, TRAINING, tmp_path, end=1)


def test_chunks_are_halved_on_a_small_card(small_clip: Path, tmp_path: Path) -> None:
    training, peaks = replace(TRAINING, chunk=64), list[int]()
    for memory in (1.0, 0.5):  # of what the activations take
        loaded = load_model(Model(name="m", family="clip", base=str(small_clip)))
        with fake_card() as card:
            learner = LoraModel(loaded, training, device=TRAINED)
            weights = card.live
            if peaks:
                card.memory = weights + int(memory * (peaks[0] - weights))
            notes = train(learner, training, tmp_path / str(memory), end=1)
        peaks.append(card.peak)
        assert bool(notes) == (memory < 1) == bool(card.refused)
    assert peaks[1] <= weights + (peaks[0] - weights) / 2
