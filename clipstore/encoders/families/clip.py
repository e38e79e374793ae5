"""CLIP (Radford et al., 2021): transformers' CLIPModel, as OpenAI, OpenCLIP and MetaCLIP checkpoints are published.

Vectors for the store use clipstore's forward pass (see `clip_forward`); training uses transformers'. The text tower is
causal and pools the end token, so that what follows it changes nothing: texts are not padded, and share prefixes (see
`packing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from clipstore.encoders.families import packing
from clipstore.encoders.families.base import (
    LARGEST_WIDTH,
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
from clipstore.errors import ModelError

if TYPE_CHECKING:
    import torch

_DEFAULT_DIM = 512
_LEGACY_EOS = 2  # the eos_token_id of old configurations; the end token is then the one with the highest id


class Clip(Family):
    """CLIP models of transformers."""

    name = "clip"
    title = "a CLIP model"
    model_type = "clip"
    model_keys = Family.model_keys | {"logit_scale_init_value", "projection_dim"}
    head_keys = frozenset({"projection_dim"})
    sizes: ClassVar = {
        "text": sized(
            hidden_size=512,
            intermediate_size=2048,
            num_attention_heads=8,
            max_position_embeddings=77,
            vocab_size=49408,
        ),
        "vision": sized(image_size=224, patch_size=32, num_channels=3),
    }
    parts: ClassVar = {
        "image backbone": ("vision_model.",),
        "image head": ("visual_projection.",),
        "text": ("text_model.", "text_projection."),
        "no vector": ("logit_scale", "logit_bias"),
    }
    heads = ("text_projection.weight", "visual_projection.weight")
    center_crop = True

    def tower_config(self, config: Config, tower: str) -> Config:
        """As transformers: a *_config_dict, as in the first checkpoints, is completed with defaults and overrides."""
        config_table, config_dict = config.get(f"{tower}_config") or {}, config.get(f"{tower}_config_dict")
        if config_dict is None:
            return dict(config_table)
        from huggingface_hub.errors import StrictDataclassError
        from transformers import CLIPTextConfig, CLIPVisionConfig

        resolve: Any = CLIPTextConfig if tower == "text" else CLIPVisionConfig
        try:
            return dict(config_table) | dict(resolve(**config_dict).to_dict())
        except (TypeError, ValueError, StrictDataclassError) as error:
            message = f"{tower}_config_dict in the model's config.json: {' '.join(str(error).split())}"
            raise ModelError(message) from error

    def longest_text(self, towers: Towers) -> int:
        return self.size(towers, "text", "max_position_embeddings")

    def check_tokenizer(self, tokenizer: Any, folder: Path, towers: Towers) -> None:
        """Any padding will do: texts are not padded."""

    def special_tokens(self, tokenizer: Any) -> list[str]:
        return [token for token in (tokenizer.bos_token, tokenizer.eos_token) if token]

    def dim(self, config: Config, towers: Towers) -> int:
        return int(config.get("projection_dim", _DEFAULT_DIM))

    def check_config(self, file: Path, config: Config, towers: Towers) -> None:
        check_size(file, "projection_dim", config.get("projection_dim", _DEFAULT_DIM), LARGEST_WIDTH)
        end = towers.get("text", {}).get("eos_token_id", 0)
        if not isinstance(end, int) or isinstance(end, bool):  # transformers allows lists, and its CLIP fails with them
            message = f"{file}: eos_token_id = {end!r} in text_config: expected the id of one token"
            raise ModelError(message)

    def expected_shapes(self, config: Config, towers: Towers) -> dict[str, Shape]:
        text, vision = ({key: self.size(towers, side, key) for key in self.sizes[side]} for side in ("text", "vision"))
        dim, patches = self.dim(config, towers), (vision["image_size"] // vision["patch_size"]) ** 2
        shapes: dict[str, Shape] = {
            "text_model.embeddings.token_embedding.weight": (text["vocab_size"], text["hidden_size"]),
            "text_model.embeddings.position_embedding.weight": (text["max_position_embeddings"], text["hidden_size"]),
            "vision_model.embeddings.patch_embedding.weight": (
                *(vision["hidden_size"], vision["num_channels"], vision["patch_size"], vision["patch_size"]),
            ),
            "vision_model.embeddings.position_embedding.weight": (patches + 1, vision["hidden_size"]),
            "text_projection.weight": (dim, text["hidden_size"]),
            "visual_projection.weight": (dim, vision["hidden_size"]),
        }
        for tower, sizes in (("text", text), ("vision", vision)):
            last = f"{tower}_model.encoder.layers.{sizes['num_hidden_layers'] - 1}"
            shapes[f"{last}.mlp.fc1.weight"] = (sizes["intermediate_size"], sizes["hidden_size"])
        return shapes

    def load(self, folder: Path, config: Config) -> tuple[Any, Sequence[str]]:
        from transformers import CLIPConfig, CLIPModel

        return loaded(CLIPModel, CLIPConfig, folder, config, attn_implementation="sdpa")

    def encode_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        from clipstore.encoders.families import clip_forward

        return clip_forward.encode_image(model.vision_model, *inputs)

    def project_image(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", model.visual_projection(features))

    def text_batches(self, ids: Ids, tokens: int, longest: int) -> Iterator[list[int]]:
        """Texts with a common prefix are in one batch."""
        return packing.batches_of(ids, tokens)

    def row_tokens(self, longest: int) -> int:
        return packing.row_tokens(longest)

    def text_inputs(self, model: Any, ids: Ids, padding: int) -> tuple[NDArray[Any], ...]:
        end = model.config.text_config.eos_token_id
        packed = packing.pack([text[: _end_position(text, end) + 1] for text in ids])
        return packed.tokens, packed.positions, packed.attends, packed.ends

    def encode_text(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        from clipstore.encoders.families import clip_forward

        return cast("torch.Tensor", model.text_projection(clip_forward.encode_text(model.text_model, *inputs)))

    def sample_outputs(self, model: Any) -> dict[str, torch.Tensor]:
        pixels, tokens = sample_pixels(model), sample_tokens(model)
        return {
            "image": model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output),
            "text": model.text_projection(model.text_model(input_ids=tokens).last_hidden_state),
        }

    def train_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", model.vision_model(pixel_values=inputs[0]).pooler_output)

    def train_text(self, model: Any, ids: Ids, padding: int) -> torch.Tensor:
        import torch

        batch = torch.from_numpy(padded(ids, padding)).to(model.device)
        return cast("torch.Tensor", model.text_projection(model.text_model(input_ids=batch).pooler_output))


def sample_pixels(model: Any) -> torch.Tensor:
    """Fixed pixel values of the size that a model's image tower takes: (1, 3, height, width)."""
    import torch

    size = model.config.vision_config.image_size
    return torch.linspace(-1, 1, 3 * size * size).view(1, 3, size, size)


def sample_tokens(model: Any, count: int = 8) -> torch.Tensor:
    """Fixed token ids: (1, count)."""
    import torch

    tokens = torch.arange(1, count + 1).view(1, count)
    return tokens.remainder(int(model.config.text_config.vocab_size))


def _end_position(ids: Sequence[int], end: int) -> int:
    """The position of a text's pooled token: its first end token, as in transformers."""
    if end == _LEGACY_EOS:
        end = int(np.max(ids))
    if end not in ids:
        message = (
            f"the model's config.json has the end token {end}, and its tokenizer gives {list(ids)[:9]}: use the "
            "tokenizer that belongs to the weights"
        )
        raise ModelError(message)
    return list(ids).index(end)
