"""Encoders of every family on a fake GPU: a tensor on the wrong device or a missing copy is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, fake_card
from family_folders import SMALL
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families import recognise
from clipstore.encoders.loading import LoadedModel, load_model
from clipstore.records import Model

TEXTS = ["a man rides a horse", "a man rides a wave", "a"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {"clip": small_clip} | {name: write(root / name) for name, write in SMALL.items()}


def load(folder: Path) -> LoadedModel:
    return load_model(Model(name="m", family=recognise(folder, str(folder)).name, base=str(folder)))


def encode(encoder: Encoder, name: str) -> dict[str, np.ndarray]:
    """Image and text vectors of a few items, and the probe's."""
    sizes = [(64, 48), (40, 32)] if name == "naflex" else [encoder.preprocessing.crop] * 2
    features = encoder.image_features([np.zeros((*size, 3), dtype=np.uint8) for size in sizes])
    ids = encoder.tokenize(TEXTS).ids
    return {"images": encoder.project(features), "texts": encoder.text_vectors(ids)} | encoder.probe()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["clip", *SMALL])
def test_towers_compute_on_the_device(name: str, precision: str, folders: dict[str, Path]) -> None:
    shapes = {key: array.shape for key, array in encode(Encoder(load(folders[name])), name).items()}
    loaded = load(folders[name])
    with fake_card() as card:
        encoder = Encoder(loaded, precision=precision, device=CUDA)
        weights = card.live
        vectors = encode(encoder, name)
    assert {key: array.shape for key, array in vectors.items()} == shapes
    assert all(array.dtype == np.float32 for array in vectors.values())
    assert encoder.weight_bytes <= weights <= 1.1 * encoder.weight_bytes + 512 * 1000
    assert card.peak > weights
    assert card.live <= weights + 4096  # nothing of a batch stays


def _weight_stays(encoder: Encoder) -> None:
    *_, norm = (module for module in encoder._model.modules() if isinstance(module, torch.nn.LayerNorm))
    norm.weight = torch.nn.Parameter(norm.weight.cpu(), requires_grad=False)


def _normalizer_stays(encoder: Encoder) -> None:
    encoder._normalize._shift = encoder._normalize._shift.cpu()


def _inputs_stay(encoder: Encoder) -> None:
    encoder.device = torch.device("cpu")


@pytest.mark.parametrize("misplace", [_weight_stays, _normalizer_stays, _inputs_stay])
@pytest.mark.parametrize("name", ["clip", *SMALL])
def test_a_misplaced_tensor_is_an_error(
    name: str, misplace: Callable[[Encoder], None], folders: dict[str, Path]
) -> None:
    loaded = load(folders[name])
    with fake_card():
        encoder = Encoder(loaded, device=CUDA)
        misplace(encoder)
        with pytest.raises(FakeTensorDeviceMismatchError, match="at least two devices"):
            encode(encoder, name)


def test_vectors_on_the_device_cannot_be_read() -> None:
    """Without values, reading is what the helper answers: it must fail as torch does."""
    with fake_card(), pytest.raises(TypeError, match="can't convert cuda"):
        torch.zeros(2, device=CUDA).numpy()


def test_an_asynchronous_copy_to_the_host_is_an_error() -> None:
    with fake_card():
        torch.zeros(2).pin_memory().to(CUDA, non_blocking=True)
        with pytest.raises(AssertionError, match="without a wait"):
            torch.zeros(2, device=CUDA).to("cpu", non_blocking=True)
