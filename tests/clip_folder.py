"""CLIP model folders in Hugging Face format: random weights in OpenAI's sizes or small ones, OpenAI's tokenizer."""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_vocabulary import write_clip_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import CLIPModel

from clipstore.encoders.random_clip import VIT_B_32, Sizes, write_random_clip

_SMALL = Sizes(dim=32, text=(32, 2, 2), vision=(48, 3, 2))

# The preprocessing as openai/clip-vit-large-patch14 has it, and as transformers saves it today.
_CURRENT_FORMAT = {
    "crop_size": {"height": 224, "width": 224},
    "do_convert_rgb": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}


def build_clip(folder: Path, *, small: bool, seed: int = 0, old: bool = True) -> Path:
    """Write a model to `folder`; `old`: in the format of OpenAI's B/32, with end token 2 and sizes as integers."""
    with tempfile.TemporaryDirectory() as temporary:
        try:
            tokenizer = write_clip_tokenizer(Path(temporary))
        except OSError as error:
            pytest.skip(f"no CLIP vocabulary: {error}")
        write_random_clip(folder, sizes=_SMALL if small else VIT_B_32, seed=seed, tokenizer=tokenizer)
    if not old:
        edit_json(folder / "preprocessor_config.json", **_CURRENT_FORMAT)
        text = json.loads((folder / "config.json").read_text())["text_config"]
        edit_json(folder / "config.json", text_config=text | {"bos_token_id": 49406, "eos_token_id": 49407})
    return folder


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def build_lora(base: Path, folder: Path, *, targets: str | list[str], value: float = 0.05, **options: Any) -> Path:
    """A LoRA on the modules that `targets` matches, B filled with `value`, saved in PEFT's format."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
        model = get_peft_model(CLIPModel.from_pretrained(base), LoraConfig(r=4, target_modules=targets, **options))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, value)
        elif "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=value)
    model.save_pretrained(folder)
    return folder


def build_headed_lora(base: Path, folder: Path) -> Path:
    """A text LoRA with trained heads beside it: those of the base with their rows reversed."""
    build_lora(base, folder, targets=r".*text_model.*v_proj")
    tensors = load_file(base / "model.safetensors")
    names = ("visual_projection.weight", "text_projection.weight")
    save_file({name: tensors[name][::-1].copy() for name in names}, folder / "heads.safetensors")
    return folder
