"""BLIP (Li et al., 2022): the contrastive vectors of transformers' BlipForImageTextRetrieval.

An image's vector is the projection of its first token's state, a text's likewise ([CLS]). Texts have at most 35 tokens,
as in BLIP's evaluation, and a mask, so that padding changes nothing. The matching head and the cross-attention of the
text encoder, with which BLIP reranks, decide no vector.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from clipstore.encoders.families.base import (
    LARGEST_WIDTH,
    TOKENIZER_FILES,
    Config,
    Family,
    Ids,
    Shape,
    Towers,
    check_size,
    loaded,
    padded,
    sized,
)
from clipstore.encoders.families.clip import sample_pixels, sample_tokens

if TYPE_CHECKING:
    import torch

_DEFAULT_DIM = 256
_LONGEST_TEXT = 35  # tokens, [CLS] and [SEP] included
_TEMPERATURE = 0.07  # at which BLIP's training starts; its checkpoints in transformers' format do not contain it
_TOWER_KEYS = {
    "encoder_hidden_size", "hidden_dropout_prob", "attention_probs_dropout_prob", "is_decoder", "sep_token_id",
}  # fmt: skip


class Blip(Family):
    """BLIP models with both projections and the matching head."""

    name = "blip"
    title = "a BLIP model"
    model_type = "blip"
    model_keys = Family.model_keys | {"image_text_hidden_size", "projection_dim", "logit_scale_init_value"}
    tower_keys = Family.tower_keys | _TOWER_KEYS
    head_keys = frozenset({"image_text_hidden_size"})
    sizes: ClassVar = {
        "text": sized(max_position_embeddings=512, vocab_size=30524, num_attention_heads=8),
        "vision": sized(image_size=384, patch_size=16),
    }
    parts: ClassVar = {
        "image backbone": ("vision_model.",),
        "image head": ("vision_proj.",),
        "text": ("text_encoder.", "text_proj."),
        "no vector": ("itm_head.",),
    }
    heads = ("text_proj.weight", "text_proj.bias", "vision_proj.weight", "vision_proj.bias")
    modules: ClassVar = {"text": "text_encoder", "vision": "vision_model"}
    tokenizer_files = (*TOKENIZER_FILES[:1], ("vocab.txt",))
    has_temperature = False

    def longest_text(self, towers: Towers) -> int:
        return min(_LONGEST_TEXT, self.size(towers, "text", "max_position_embeddings"))

    def dim(self, config: Config, towers: Towers) -> int:
        return int(config.get("image_text_hidden_size", _DEFAULT_DIM))

    def part(self, tensor: str) -> str:
        return "no vector" if ".crossattention." in tensor else super().part(tensor)

    def check_config(self, file: Path, config: Config, towers: Towers) -> None:
        dim = config.get("image_text_hidden_size", _DEFAULT_DIM)
        check_size(file, "image_text_hidden_size", dim, LARGEST_WIDTH)

    def expected_shapes(self, config: Config, towers: Towers) -> dict[str, Shape]:
        text, vision = ({key: self.size(towers, side, key) for key in self.sizes[side]} for side in ("text", "vision"))
        dim, width, patch = self.dim(config, towers), text["hidden_size"], vision["patch_size"]
        patches = (vision["image_size"] // patch) ** 2
        last, last_image = text["num_hidden_layers"] - 1, vision["num_hidden_layers"] - 1
        return {
            "text_encoder.embeddings.word_embeddings.weight": (text["vocab_size"], width),
            "text_encoder.embeddings.position_embeddings.weight": (text["max_position_embeddings"], width),
            f"text_encoder.encoder.layer.{last}.intermediate.dense.weight": (text["intermediate_size"], width),
            "vision_model.embeddings.patch_embedding.weight": (vision["hidden_size"], 3, patch, patch),
            "vision_model.embeddings.position_embedding": (1, patches + 1, vision["hidden_size"]),
            f"vision_model.encoder.layers.{last_image}.mlp.fc1.weight": (
                *(vision["intermediate_size"], vision["hidden_size"]),
            ),
            "text_proj.weight": (dim, width),
            "vision_proj.weight": (dim, vision["hidden_size"]),
            "itm_head.weight": (2, width),
        }

    def load(self, folder: Path, config: Config) -> tuple[Any, Sequence[str]]:
        from transformers import BlipConfig, BlipForImageTextRetrieval

        return loaded(BlipForImageTextRetrieval, BlipConfig, folder, config)

    def encode_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        """The first token's state; transformers' `pooler_output` of this tower is normalised twice."""
        return cast("torch.Tensor", model.vision_model(pixel_values=inputs[0]).last_hidden_state[:, 0])

    def project_image(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", model.vision_proj(features))

    def text_inputs(self, model: Any, ids: Ids, padding: int) -> tuple[NDArray[Any], ...]:
        tokens = padded(ids, padding)
        lengths = np.array([len(text) for text in ids])
        return tokens, (np.arange(tokens.shape[1]) < lengths[:, None]).astype(np.int64)

    def encode_text(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        states = model.text_encoder(input_ids=inputs[0], attention_mask=inputs[1]).last_hidden_state
        return cast("torch.Tensor", model.text_proj(states[:, 0]))

    def sample_outputs(self, model: Any) -> dict[str, torch.Tensor]:
        tokens = sample_tokens(model)
        return {
            "image": self.project_image(model, self.encode_image(model, sample_pixels(model))),
            "text": self.encode_text(model, tokens, tokens * 0 + 1),
        }

    def lora_pattern(self, towers: Sequence[str], modules: Sequence[str]) -> str:
        """Without cross-attention, which decides no vector."""
        names = "|".join(self.modules[tower] for tower in towers)
        return rf"({names})\.(?!.*crossattention).*\.({'|'.join(map(re.escape, modules))})"

    def scale(self, model: Any) -> torch.Tensor:
        import torch

        return torch.tensor(1 / _TEMPERATURE)
