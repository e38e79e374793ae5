"""Models of the sizes of published checkpoints without weights: their memory is reserved and never touched.

They are for a fake GPU (fake_cuda), where values do not matter.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from clipstore.encoders.families.base import Family
from clipstore.encoders.families.blip import Blip
from clipstore.encoders.families.clip import Clip
from clipstore.encoders.families.naflex import Naflex
from clipstore.encoders.families.siglip import Siglip
from clipstore.encoders.fingerprint_inputs import ModelSettings
from clipstore.encoders.images import PatchPreprocessing, Preprocessing
from clipstore.encoders.loading import LoadedModel

_HALF = {"scale": 1 / 255, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


class _Vocabulary(dict[str, int]):
    """What encoders take of a tokenizer, texts apart."""

    pad_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return self


def tower(width: int, heads: int, layers: int, inner: int | None = None, **settings: Any) -> dict[str, Any]:
    """The configuration of a tower."""
    sizes = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    return sizes | {"intermediate_size": inner or 4 * width} | settings


def _clip(text: dict[str, Any], vision: dict[str, Any], dim: int) -> LoadedModel:
    common = {"hidden_act": "quick_gelu", "projection_dim": dim}
    return _built(
        Clip(), CLIPModel, CLIPConfig, text | common | {"eos_token_id": 2}, vision | common, projection_dim=dim
    )


def _built(
    family: Family, model: Any, config: Any, text: dict[str, Any], vision: dict[str, Any], **settings: Any
) -> LoadedModel:
    whole = config(text_config=text, vision_config=vision, **settings)
    whole._attn_implementation = "eager" if model is BlipForImageTextRetrieval else "sdpa"
    with torch.device("meta"):
        weights = model(whole)
    pixels = vision.get("image_size")
    preprocessing: Any = Preprocessing(
        shortest_edge=None, resize=(pixels,) * 2, crop=(pixels,) * 2, resample=3, **_HALF
    )
    if not pixels:
        preprocessing = PatchPreprocessing(patch=16, max_patches=256, resample=2, **_HALF)
    return LoadedModel(
        model=weights.to_empty(device="cpu"),
        tokenizer=_Vocabulary({"[ENC]": 30_523}),
        settings=ModelSettings(
            family=family, config=whole.to_dict(), towers={"text": text, "vision": vision}, preprocessing=preprocessing
        ),
    )


_CLIP_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77}
_SIGLIP_TEXT = {"vocab_size": 256_000, "max_position_embeddings": 64}

LARGE = {
    "vit-b-32": lambda: _clip(
        tower(512, 8, 12, **_CLIP_TEXT), tower(768, 12, 12, image_size=224, patch_size=32), dim=512
    ),
    "vit-l-14-336": lambda: _clip(
        tower(768, 12, 12, **_CLIP_TEXT), tower(1024, 16, 24, image_size=336, patch_size=14), dim=768
    ),
    "vit-bigg-14": lambda: _clip(
        tower(1280, 20, 32, **_CLIP_TEXT), tower(1664, 16, 48, 8192, image_size=224, patch_size=14), dim=1280
    ),
    "siglip-so400m": lambda: _built(
        Siglip(), SiglipModel, SiglipConfig, tower(1152, 16, 27, 4304, **_SIGLIP_TEXT),
        tower(1152, 16, 27, 4304, image_size=384, patch_size=14),
    ),
    "naflex-b-16": lambda: _built(
        Naflex(), Siglip2Model, Siglip2Config, tower(768, 12, 12, **_SIGLIP_TEXT),
        tower(768, 12, 12, num_patches=256, patch_size=16),
    ),
    "blip-base": lambda: _built(
        Blip(), BlipForImageTextRetrieval, BlipConfig,
        tower(768, 12, 12, vocab_size=30_524, max_position_embeddings=512, is_decoder=True, bos_token_id=30_522),
        tower(768, 12, 12, image_size=384, patch_size=16), image_text_hidden_size=256,
    ),
}  # fmt: skip
