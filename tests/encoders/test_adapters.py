"""Adapters change the towers that they have tensors for; those that do not fit are refused."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_folder import build_lora, edit_json
from encoder_helpers import (
    MIXED,
    changed_parts,
    fingerprints,
    model_of,
    open_encoder,
    our_texts,
    pooled,
)
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel

from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.errors import ModelError

ON_TEXT = r".*text_model.*\.(q_proj|v_proj)"
ON_VISION = r".*vision_model.*\.(q_proj|v_proj)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"targets": ON_TEXT}, {"text"}),
        ({"targets": ON_VISION}, {"image", "backbone"}),
        ({"targets": ["text_projection"]}, {"text"}),
        ({"targets": ["visual_projection"]}, {"image"}),
        ({"targets": ON_TEXT, "modules_to_save": ["visual_projection"]}, {"text", "image"}),
    ],
    ids=["text", "vision", "text head", "image head", "text and image head"],  # sets are printed in any order
)
def test_an_adapter_changes_the_towers_that_it_has_tensors_for(
    options: dict[str, Any], expected: set[str], small_clip: Path, tmp_path: Path
) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", **options)
    before, after = fingerprints(model_of(small_clip)), fingerprints(model_of(small_clip, adapter=str(tuned)))
    assert changed_parts(before, after) == expected
    encoders = [open_encoder(model_of(small_clip, adapter=adapter)) for adapter in (None, str(tuned))]
    black = np.zeros((1, 224, 224, 3), np.uint8)
    vectors = {
        "backbone": [encoder.image_features(black) for encoder in encoders],
        "image": [encoder.project(encoder.image_features(black)) for encoder in encoders],
        "text": [our_texts(encoder, ["a cat"]) for encoder in encoders],
    }
    different = {part for part, pair in vectors.items() if not np.allclose(*pair, rtol=0, atol=1e-6)}
    assert different == expected


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_an_adapted_model_agrees_with_peft(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj", "v_proj", "fc1"])
    encoder = open_encoder(model_of(small_clip, adapter=str(tuned)))
    peft_model = PeftModel.from_pretrained(CLIPModel.from_pretrained(small_clip), tuned).eval()
    tokens = AutoTokenizer.from_pretrained(small_clip)(MIXED, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = pooled(peft_model.get_text_features(**tokens))
    np.testing.assert_allclose(our_texts(encoder, MIXED), expected, atol=1e-5)


def test_loading_a_tuned_model_leaves_its_base_unchanged(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj", "v_proj"])
    base = open_encoder(model_of(small_clip))
    before = our_texts(base, MIXED)
    after = our_texts(open_encoder(model_of(small_clip, adapter=str(tuned))), MIXED)
    np.testing.assert_allclose(our_texts(base, MIXED), before, atol=1e-6)
    np.testing.assert_allclose(our_texts(open_encoder(model_of(small_clip)), MIXED), before, atol=1e-6)
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.parametrize("targets", [["q_proj"], ["visual_projection"]])
def test_an_adapter_without_effect_is_refused(targets: list[str], small_clip: Path, tmp_path: Path) -> None:
    adapter = build_lora(small_clip, tmp_path / "zero", targets=targets, value=0.0)
    with pytest.raises(ModelError, match=r"zero has no effect"):
        open_encoder(model_of(small_clip, adapter=str(adapter)))


def test_an_adapter_for_other_modules_is_refused(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    edit_json(tuned / "adapter_config.json", target_modules=["wonder_proj"])
    with pytest.raises(ModelError, match="does not fit"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


def test_an_adapter_whose_weights_have_other_names_is_refused(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    tensors = load_file(tuned / "adapter_model.safetensors")
    save_file({name.replace("q_proj", "z_proj"): t for name, t in tensors.items()}, tuned / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"8 tensors that are not applied, .*z_proj\.lora_A"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


def test_an_adapter_of_a_wider_model_is_refused(small_clip: Path, tmp_path: Path) -> None:
    demo = Path(sys.modules["clipstore"].__file__).parent / "demo/model"
    tuned = build_lora(demo, tmp_path / "tuned", targets=["q_proj"])
    with pytest.raises(ModelError, match="does not fit"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_folder_without_a_file_is_refused(name: str, small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    (tuned / name).unlink()
    with pytest.raises(ModelError, match=name):
        fingerprint_towers(model_of(small_clip, adapter=str(tuned)), "fp32")
    with pytest.raises(ModelError, match=name):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_truncated_adapter_file_is_refused(name: str, size: int, small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    os.truncate(tuned / name, size)
    with pytest.raises(ModelError, match=r"tuned"):
        fingerprint_towers(model_of(small_clip, adapter=str(tuned)), "fp32")
    with pytest.raises(ModelError, match=r"tuned"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))
