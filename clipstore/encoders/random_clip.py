"""A randomly initialised CLIP in Hugging Face format, for benchmarks and tests."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from clipstore.encoders.loading import quiet_transformers
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import tokenizer_files

_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
_SPECIAL_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # 2: the end token has the highest id
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
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a CLIP; `text` and `vision` are the width, attention heads and layers of a tower."""

    dim: int
    text: tuple[int, int, int]
    vision: tuple[int, int, int]
    patch: int = 32
    pixels: int = 224


VIT_B_32 = Sizes(dim=512, text=(512, 8, 12), vision=(768, 12, 12))


def write_random_clip(folder: Path, *, sizes: Sizes = VIT_B_32, seed: int = 0, tokenizer: Path | None = None) -> Path:
    """Write a CLIP to `folder`, with the configuration format of openai/clip-vit-base-patch32; returns the folder.

    Args:
        folder: created if needed.
        sizes: of the towers.
        seed: of the weights.
        tokenizer: a folder with tokenizer files of at most 49,408 tokens, of which the end token has the highest id;
            None: those of the bundled model, whose token ids and token counts differ from CLIP's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = CLIPConfig(
        projection_dim=sizes.dim,
        text_config=_tower(*sizes.text) | _TEXT | _SPECIAL_IDS | {"projection_dim": sizes.dim},
        vision_config=_tower(*sizes.vision)
        | {"hidden_act": "quick_gelu", "image_size": sizes.pixels, "patch_size": sizes.patch}
        | {"projection_dim": sizes.dim},
    )
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(seed)
        CLIPModel(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSING))
    for file in tokenizer_files(tokenizer or locate("bundled:demo")):
        shutil.copy(file, folder)
    return folder


def _tower(width: int, heads: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }
