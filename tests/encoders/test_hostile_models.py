"""Model folders that are made to harm: code, configurations that cannot be, sizes without end, patterns without end."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from peft import LoraConfig, get_peft_model

from clipstore.encoders.adapter_checks import check_adapter
from clipstore.encoders.checks import check_model
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.loading import load_model
from clipstore.encoders.locate import locate
from clipstore.errors import ModelError
from clipstore.records import Model

Run = Callable[..., Result]

KERNEL = "someone/kernel"  # a repository of the hub with code
DEEP = "[" * 200_000
BOMB = r"(\w|\w\w|[a-z_.0-9])*!"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of the bundled model, as links: replace a file to change it."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in locate("bundled:demo").iterdir():
        (copy / file.name).symlink_to(file)
    return copy


def change(file: Path, path: str, value: Any) -> None:
    """Set a key of a JSON file, such as "vision_config.patch_size"."""
    content = json.loads(file.read_text())
    table, keys = content, path.split(".")
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    replace(file, json.dumps(content))


def replace(file: Path, text: str) -> None:
    file.unlink()
    file.write_text(text)


def load(folder: Path, adapter: Path | None = None) -> Encoder:
    model = Model(name="m", family="clip", base=str(folder), adapter=str(adapter) if adapter else None)
    check_model(model)
    return Encoder(load_model(model))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", KERNEL), ("vision_config._attn_implementation", KERNEL),
        ("_attn_implementation_internal", KERNEL), ("attn_implementation", "flash_attention_2"),
        ("experts_implementation", KERNEL), ("use_kernels", True), ("torch_dtype", "float1"),
    ],
)  # fmt: skip
def test_keys_that_do_not_describe_a_clip_are_not_given_to_transformers(folder: Path, key: str, value: Any) -> None:
    change(folder / "config.json", key, value)
    probe, expected = load(folder).probe(), load(locate("bundled:demo")).probe()
    assert all((probe[tower] == expected[tower]).all() for tower in expected)


SIZES = [
    *((f"vision_config.{key}", value) for value in (0, -1, 10**9, "x", 2.5, None)
      for key in ("patch_size", "num_attention_heads", "num_hidden_layers", "hidden_size")),
    *((f"text_config.{key}", value) for key in ("vocab_size", "max_position_embeddings", "num_hidden_layers")
      for value in (0, 10**12)),
    ("vision_config.patch_size", 8), ("vision_config.num_channels", 4), ("vision_config.image_size", 10**8),
    ("vision_config.num_attention_heads", 3), ("vision_config.num_hidden_layers", 6),
    ("text_config.intermediate_size", 2**18), ("text_config.vocab_size", 2**24),
    ("text_config.layer_norm_eps", float("nan")), ("text_config.layer_norm_eps", "x"),
    ("text_config.eos_token_id", [836]), ("text_config.eos_token_id", None), ("text_config.eos_token_id", True),
    ("text_config.hidden_act", "os.system"), ("projection_dim", 10**12), ("num_labels", 10**9),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}), ("auto_map", {"AutoModel": "evil.Evil"}),
    ("transformers_weights", "../other/model.safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SIZES, ids=str)
def test_configurations_that_cannot_be_are_refused_in_time(folder: Path, key: str, value: Any) -> None:
    change(folder / "config.json", key, value)
    began = time.process_time()
    with pytest.raises(ModelError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("crop_size", value) for value in (0, -1, 10**9, "x", {"height": -1, "width": 64})),
        ("crop_size", {"height": 64.0, "width": 64}),
        *(("size", {"shortest_edge": value}) for value in (0, -1, 10**9, "x", float("nan"))),
        *(("size", value) for value in ({"longest_edge": 64}, {"height": 64}, {"height": -1, "width": 5})),
        *(("image_std", value) for value in ([0, 1, 1], [float("nan")] * 3, "abc", None)),
        ("image_mean", [float("inf"), 0, 0]), ("rescale_factor", float("nan")), ("resample", 99),
    ],
    ids=str,
)  # fmt: skip
def test_preprocessing_that_cannot_be_is_refused(folder: Path, key: str, value: Any) -> None:
    change(folder / "preprocessor_config.json", key, value)
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", [DEEP, "", "null", '{"a": ' + "9" * 5000 + "}"], ids=["deep", "empty", "null", "digits"]
)
def test_json_without_end_is_refused(folder: Path, name: str, text: str) -> None:
    replace(folder / name, text)
    with pytest.raises(ModelError):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    change(folder / "tokenizer_config.json", "tokenizer_class", "BertTokenizer")
    change(folder / "tokenizer.json", "model.vocab.circle", 5000)
    with pytest.raises(ModelError, match="tokenizer"):
        load(folder).tokenize(["a circle"])


# --- adapters


@pytest.fixture(scope="module")
def adapter_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = load_model(Model(name="m", family="clip", base="bundled:demo")).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
        model = get_peft_model(base, LoraConfig(r=4, target_modules=r".*text_model.*v_proj"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.05)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.fixture
def adapter(adapter_template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "adapter"
    copy.mkdir()
    for file in adapter_template.iterdir():
        (copy / file.name).symlink_to(file)
    return copy


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", BOMB), ("exclude_modules", BOMB), ("layers_pattern", [BOMB]),
        ("rank_pattern", {BOMB: 4}), ("alpha_pattern", {BOMB: 4}),
    ],
)  # fmt: skip
def test_a_pattern_without_end_is_refused(adapter: Path, key: str, value: Any) -> None:
    change(adapter / "adapter_config.json", key, value)
    with pytest.raises(ModelError, match=r"take longer than 0.3 s to match"):
        check_adapter(str(adapter), ["text_model.encoder.layers.10.self_attn.v_proj"] * 2, seconds=0.3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(("), ("r", 10**7), ("r", "x"), ("rank_pattern", {".*v_proj": 10**7}),
        ("peft_type", "EVIL"), ("num_virtual_tokens", 10**9),
    ],
    ids=str,
)  # fmt: skip
def test_adapters_that_cannot_be_are_refused(folder: Path, adapter: Path, key: str, value: Any) -> None:
    change(adapter / "adapter_config.json", key, value)
    with pytest.raises(ModelError, match="adapter"):
        load(folder, adapter)


@pytest.mark.parametrize("text", [b"\xff\xfe garbage", b"0123abcd\n", b"'; DROP TABLE models; --"])
def test_a_list_of_training_images_that_is_none_is_refused(cli: Run, adapter: Path, text: bytes) -> None:
    (adapter / "training_images.txt").write_bytes(text)
    error = cli("model", "add", "m", "--base", "bundled:demo", "--adapter", adapter, code=1).stderr
    assert "training_images.txt has" in error
    assert "'clipstore model trained m'" in error
