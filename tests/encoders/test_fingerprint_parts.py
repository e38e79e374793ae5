"""A fingerprint changes with the inputs of its own tower, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_helpers import (
    changed_parts,
    edit_config,
    edit_preprocessor,
    edit_tower,
    fingerprints,
    model_of,
    open_encoder,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.records import Tower

IGNORED = {"transformers_version": "9", "_name_or_path": "x", "dtype": "float16", "torch_dtype": "float16"}


def edit_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name] + 0.25
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add_merge(folder: Path) -> None:
    with (folder / "merges.txt").open("a") as merges:
        merges.write("zz yy\n")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (partial(edit_tensor, name="text_model.final_layer_norm.weight"), {"text"}),
        (partial(edit_tensor, name="text_projection.weight"), {"text"}),
        (partial(edit_tensor, name="visual_projection.weight"), {"image"}),
        (partial(edit_tensor, name="vision_model.post_layernorm.bias"), {"image", "backbone"}),
        (partial(edit_tensor, name="logit_scale"), set()),
        (partial(edit_preprocessor, resample=2), {"image", "backbone"}),
        (partial(edit_preprocessor, image_mean=[0.5, 0.5, 0.5]), {"image", "backbone"}),
        (partial(edit_tower, tower="vision", hidden_act="gelu"), {"image", "backbone"}),
        (partial(edit_tower, tower="text", hidden_act="gelu"), {"text"}),
        (add_merge, {"text"}),
        (partial(edit_config, **IGNORED), set()),
        (partial(edit_tower, tower="vision", **IGNORED), set()),
    ],
)  # fmt: skip
def test_a_fingerprint_changes_with_what_decides_its_vectors(
    edit: Callable[[Path], None], expected: set[str], folder: Path
) -> None:
    before = fingerprints(model_of(folder))
    edit(folder)
    assert changed_parts(before, fingerprints(model_of(folder))) == expected


@pytest.mark.parametrize(
    ("options", "precision", "expected"),
    [
        ({"prompt": "a photo of {}"}, "fp32", {"text"}),
        ({"clean": True}, "fp32", {"text"}),
        ({}, "fp16", {"image", "backbone", "text"}),
    ],
)
def test_a_fingerprint_changes_with_the_job(
    options: dict[str, Any], precision: str, expected: set[str], small_clip: Path
) -> None:
    before, after = fingerprints(model_of(small_clip)), fingerprints(model_of(small_clip, **options), precision)
    assert changed_parts(before, after) == expected


def test_a_copy_has_the_same_fingerprints(folder: Path, small_clip: Path) -> None:
    assert fingerprints(model_of(folder)) == fingerprints(model_of(small_clip))


def test_sharded_weights_have_the_same_fingerprints(folder: Path, small_clip: Path) -> None:
    CLIPModel.from_pretrained(small_clip).save_pretrained(folder, max_shard_size="3MB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert fingerprints(model_of(folder)) == fingerprints(model_of(small_clip))


def test_a_tower_has_the_dimensions_of_its_vectors(small_clip: Path) -> None:
    image, text = fingerprint_towers(model_of(small_clip), "fp32")
    encoder = open_encoder(model_of(small_clip))
    features = encoder.image_features(np.zeros((1, *encoder.preprocessing.crop, 3), dtype=np.uint8))
    assert features.shape == (1, image.features_dim) == (1, 48)
    assert encoder.project(features).shape == (1, image.dim) == (1, 32)
    assert encoder.text_vectors(encoder.tokenize(["a cat"]).ids).shape == (1, text.dim) == (1, 32)
    assert isinstance(image, Tower)
