"""Fingerprints of every family: they change with what changes a vector, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import changed_parts, edit_json, fingerprints
from family_folders import SMALL
from safetensors.torch import load_file, save_file

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families import recognise
from clipstore.encoders.loading import load_model
from clipstore.errors import ModelError
from clipstore.records import Model

_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: write(root / name) for name, write in SMALL.items()}


def model_of(folder: Path) -> Model:
    return Model(name="m", family=recognise(folder, str(folder)).name, base=str(folder))


def weights_file(folder: Path) -> Path:
    return next(folder.glob("*model.safetensors"))


def vectors(folder: Path) -> dict[str, np.ndarray]:
    return Encoder(load_model(model_of(folder))).probe()


def changed_vectors(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {part for part in before if np.abs(before[part] - after[part]).max() > _TOLERANCE}


def without_backbone(parts: set[str], folder: Path) -> set[str]:
    """The parts that have a fingerprint: an image tower without a head has no features of its own."""
    return parts if fingerprints(model_of(folder))["backbone"] else parts - {"backbone"}


@pytest.mark.parametrize("name", SMALL)
def test_every_tensor_has_a_part(name: str, folders: dict[str, Path]) -> None:
    family = recognise(folders[name], name)
    unknown = [tensor for tensor in load_file(weights_file(folders[name])) if family.part(tensor) == "both"]
    assert not unknown


@pytest.mark.parametrize("name", SMALL)
def test_a_tensor_changes_the_fingerprints_of_the_vectors_that_it_changes(
    name: str, folders: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tensors = load_file(weights_file(folders[name]))
    before, expected = vectors(folders[name]), fingerprints(model_of(folders[name]))
    decisive = {"proj", "head", "cross", "logit", "itm"}  # of these one each, and a sample of the others
    chosen = {next((tensor for tensor in sorted(tensors) if word in tensor), "") for word in decisive}
    for number, tensor in enumerate(sorted(chosen - {""} | set(sorted(tensors)[:: max(1, len(tensors) // 8)]))):
        copy = Path(shutil.copytree(folders[name], tmp_path / str(number)))
        file = weights_file(copy)
        save_file(tensors | {tensor: tensors[tensor] * 1.7 + 0.05}, file, metadata={"format": "pt"})
        changed = without_backbone(changed_vectors(before, vectors(copy)), copy)
        parts = changed_parts(expected, fingerprints(model_of(copy)))
        assert changed <= parts, tensor
        if recognise(copy, name).part(tensor) == "no vector":
            assert not parts, tensor
        else:
            assert parts, tensor


@pytest.mark.parametrize("name", ["siglip", "naflex", "blip"])
@pytest.mark.parametrize("tower", ["text", "vision"])
def test_a_key_of_a_configuration_changes_fingerprints_or_is_refused(
    name: str, tower: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = json.loads((folders[name] / "config.json").read_text())
    before, expected = vectors(folders[name]), fingerprints(model_of(folders[name]))
    for number, (key, value) in enumerate(sorted(config[f"{tower}_config"].items())):
        changed = _other(key, value)
        if changed is None:
            continue
        copy = Path(shutil.copytree(folders[name], tmp_path / str(number)))
        edit_json(copy / "config.json", **{f"{tower}_config": config[f"{tower}_config"] | {key: changed}})
        try:
            after = vectors(copy)
        except ModelError:
            continue
        differing = without_backbone(changed_vectors(before, after), copy)
        assert differing <= changed_parts(expected, fingerprints(model_of(copy))), key


def _other(key: str, value: Any) -> Any:
    """Another value of a key."""
    if key == "hidden_act":
        return "relu"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 1
    return value + 0.25 if isinstance(value, float) else None


@pytest.mark.parametrize("name", SMALL)
def test_the_tokenizer_and_the_preprocessing_are_hashed(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    expected = fingerprints(model_of(folders[name]))
    copy = Path(shutil.copytree(folders[name], tmp_path / "texts"))
    edit_json(copy / "tokenizer_config.json", model_max_length=13)
    assert changed_parts(expected, fingerprints(model_of(copy))) == {"text"}
    copy = Path(shutil.copytree(folders[name], tmp_path / "images"))
    if name == "openclip":
        settings = json.loads((copy / "open_clip_config.json").read_text())
        edit_json(copy / "open_clip_config.json", preprocess_cfg=settings["preprocess_cfg"] | {"mean": [0.5, 0.5, 0.5]})
    else:
        edit_json(copy / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3])
    assert changed_parts(expected, fingerprints(model_of(copy))) == without_backbone({"image", "backbone"}, copy)
