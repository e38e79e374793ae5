"""Model folders and the hub's cache: incomplete and damaged files are refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from encoder_helpers import (
    edit_config,
    edit_preprocessor,
    fingerprints,
    model_of,
    open_encoder,
)
from safetensors.torch import load_file, save_file

from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.loading import load_model
from clipstore.errors import ModelError
from clipstore.records import Model


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "safetensors"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("vocab.json", "vocab.json"),
        ("merges.txt", "merges.txt"),
    ],
)
def test_a_folder_without_a_file_is_refused(name: str, words: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=words):
        fingerprint_towers(model_of(folder), "fp32")


def test_weights_in_pickles_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for load in (partial(fingerprint_towers, precision="fp32"), load_model):
        with pytest.raises(ModelError, match="safetensors"):
            load(model_of(folder))


@pytest.mark.parametrize("share", [0.0, 0.000001, 0.00001, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(share: float, folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, int(weights.stat().st_size * share))
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file, or is cut short"):
        fingerprint_towers(model_of(folder), "fp32")
    with pytest.raises(ModelError, match=str(folder)):
        open_encoder(model_of(folder))


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "vocab.json", "tokenizer_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufffd"], ids=repr)
def test_a_damaged_json_file_is_refused(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=name):
        fingerprint_towers(model_of(folder), "fp32")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": 1}'),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
    ],
)
def test_an_invalid_tokenizer_is_refused(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match="tokenizer"):
        open_encoder(model_of(folder))


@pytest.mark.parametrize("key", ["image_mean", "crop_size", "image_std", "size"])
def test_incomplete_preprocessing_is_refused(key: str, folder: Path) -> None:
    edit_preprocessor(folder, **{key: None})
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        fingerprint_towers(model_of(folder), "fp32")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_weight_index_is_refused(text: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()  # transformers prefers a single file to an index
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        fingerprint_towers(model_of(folder), "fp32")


def test_a_weight_index_with_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"logit_scale": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="safetensors"):
        fingerprint_towers(model_of(folder), "fp32")


def test_a_checkpoint_without_all_weights_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, e\.g\. text_projection\.weight"):
        open_encoder(model_of(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit_config(folder, projection_dim=16)
    with pytest.raises(ModelError, match=r"text_projection.weight has the shape \[32, 32\]"):
        open_encoder(model_of(folder))


@pytest.mark.parametrize("base", ["/no/such/folder", "./nowhere", "just-a-word", "a/b/c", "bundled:demon"])
def test_an_unknown_base_is_refused_by_name(base: str) -> None:
    with pytest.raises(ModelError, match=base.removeprefix("bundled:")):
        fingerprint_towers(Model(name="m", family="clip", base=base), "fp32")


# The hub's cache. These run in a new process: huggingface_hub reads its environment when it is imported.

_DESCRIBE = """
import sys
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.locate import locate
from clipstore.errors import ImageError, ModelError
from clipstore.records import Model
try:
    print(locate(sys.argv[1]))
    print(fingerprint_towers(Model(name="m", family="clip", base=sys.argv[1]), "fp32")[0].fingerprint)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def describe_in_process(base: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub"), "HF_HUB_OFFLINE": "1"} | variables
    command = [sys.executable, "-c", _DESCRIBE, base]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
    )


def hub_cache(cache: Path, model: Path, *revisions: str, main: str) -> Path:
    """A hub cache with a model org/clip: blobs, and snapshots with links to them."""
    root = cache / "hub/models--org--clip"
    shutil.copytree(model, root / "blobs")
    for revision in revisions:
        (root / "snapshots" / revision).mkdir(parents=True)
        for file in (root / "blobs").iterdir():
            (root / "snapshots" / revision / file.name).symlink_to(f"../../blobs/{file.name}")
    (root / "refs").mkdir()
    (root / "refs/main").write_text(main)
    return root


def test_a_cached_hub_model_is_found_offline(small_clip: Path, tmp_path: Path) -> None:
    root = hub_cache(tmp_path, small_clip, "aaa", "bbb", main="bbb")
    completed = describe_in_process("org/clip", tmp_path)
    assert completed.stderr == ""
    assert completed.stdout.split() == [str(root / "snapshots/bbb"), fingerprints(model_of(small_clip))["image"]]


def test_a_complete_snapshot_is_preferred_to_an_incomplete_one(small_clip: Path, tmp_path: Path) -> None:
    root = hub_cache(tmp_path, small_clip, "aaa", "bbb", main="bbb")
    (root / "snapshots/bbb/model.safetensors").unlink()
    completed = describe_in_process("org/clip", tmp_path)
    assert completed.stdout.split()[0] == str(root / "snapshots/aaa")


def test_an_uncached_hub_model_is_named_offline(tmp_path: Path) -> None:
    completed = describe_in_process("org/other-clip", tmp_path)
    assert completed.returncode == 1
    assert completed.stderr.startswith("ModelError: no folder org/other-clip here")
    assert "hf download org/other-clip" in completed.stderr


def test_an_unreachable_hub_is_one_error(tmp_path: Path) -> None:
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}  # the discard port refuses at once
    completed = describe_in_process("org/other-clip", tmp_path, **unreachable)
    assert completed.stderr.startswith("ModelError: no folder org/other-clip here")
    assert "hf download org/other-clip" in completed.stderr
