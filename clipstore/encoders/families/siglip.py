"""SigLIP and SigLIP 2 of fixed resolution (Zhai et al., 2023; Tschannen et al., 2025): transformers' SiglipModel.

The recipe of the published numbers: texts in lower case, padded on the right to 64 tokens without a mask, images
squashed to a square. The text tower attends in both directions and pools the last position, so that padding is part of
its input: shorter padding gives other vectors, and texts share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from numpy.typing import NDArray

from clipstore.encoders.families.base import Config, Family, Ids, Shape, Towers, loaded, padded, sized
from clipstore.encoders.families.clip import sample_pixels, sample_tokens
from clipstore.encoders.images import AnyPreprocessing, Preprocessing
from clipstore.encoders.model_files import preprocessor_file
from clipstore.errors import ModelError

if TYPE_CHECKING:
    import torch

_PADDED = 64  # tokens of every text

_TEXT = sized(max_position_embeddings=64, vocab_size=32000)


class Siglip(Family):
    """SigLIP models, and SigLIP 2 models of fixed resolution."""

    name = "siglip"
    title = "a SigLIP model"
    model_type = "siglip"
    tower_keys = Family.tower_keys | {"projection_size", "vision_use_head", "num_patches"}
    sizes: ClassVar = {"text": _TEXT, "vision": sized(image_size=224, patch_size=16, num_channels=3)}
    parts: ClassVar = {
        "image backbone": ("vision_model.",),  # its head pools; there is no projection
        "text": ("text_model.",),
        "no vector": ("logit_scale", "logit_bias"),
    }
    heads = ("text_model.head.weight", "text_model.head.bias")
    tokenizer_files = (("tokenizer.json",), ("spiece.model",), ("tokenizer.model",))

    def read_preprocessing(self, folder: Path, towers: Towers) -> AnyPreprocessing:
        preprocessing = super().read_preprocessing(folder, towers)
        if isinstance(preprocessing, Preprocessing) and preprocessing.resize is None:
            message = (
                f"{preprocessor_file(folder)} crops images, and {self.title} reads them squashed to a square: use the "
                "preprocessor_config.json that belongs to the weights"
            )
            raise ModelError(message)
        return preprocessing

    def longest_text(self, towers: Towers) -> int:
        return min(_PADDED, self.size(towers, "text", "max_position_embeddings"))

    def canonical(self, text: str) -> str:
        """Lower case: SigLIP 2 was trained on it, and its checkpoints name a tokenizer that keeps upper case."""
        return text.lower()

    def dim(self, config: Config, towers: Towers) -> int:
        return self.size(towers, "vision", "hidden_size")

    def check_config(self, file: Path, config: Config, towers: Towers) -> None:
        width = self.size(towers, "vision", "hidden_size")
        text_width = towers["text"].get("projection_size") or self.size(towers, "text", "hidden_size")
        if text_width != width:
            message = (
                f"{file}: the image tower has vectors of width {width} (hidden_size in vision_config) and the text "
                f"tower of width {text_width} (projection_size, else hidden_size, in text_config): they cannot be "
                "compared"
            )
            raise ModelError(message)
        if towers["vision"].get("vision_use_head") is False:
            message = f"{file}: vision_use_head = false: without its pooling head the image tower has no vector"
            raise ModelError(message)

    def expected_shapes(self, config: Config, towers: Towers) -> dict[str, Shape]:
        text, width = {key: self.size(towers, "text", key) for key in _TEXT}, self.dim(config, towers)
        last = {tower: self.size(towers, tower, "num_hidden_layers") - 1 for tower in ("text", "vision")}
        inner = {tower: self.size(towers, tower, "intermediate_size") for tower in ("text", "vision")}
        return {
            "text_model.embeddings.token_embedding.weight": (text["vocab_size"], text["hidden_size"]),
            "text_model.embeddings.position_embedding.weight": (text["max_position_embeddings"], text["hidden_size"]),
            "text_model.head.weight": (width, text["hidden_size"]),
            "vision_model.head.probe": (1, 1, width),
            f"text_model.encoder.layers.{last['text']}.mlp.fc1.weight": (inner["text"], text["hidden_size"]),
            f"vision_model.encoder.layers.{last['vision']}.mlp.fc1.weight": (inner["vision"], width),
            **self._embedding_shapes(towers),
        }

    def _embedding_shapes(self, towers: Towers) -> dict[str, Shape]:
        vision = {key: self.size(towers, "vision", key) for key in self.sizes["vision"]}
        patch = vision["patch_size"]
        return {
            "vision_model.embeddings.patch_embedding.weight": (
                *(vision["hidden_size"], vision["num_channels"], patch, patch),
            ),
            "vision_model.embeddings.position_embedding.weight": (
                *((vision["image_size"] // patch) ** 2, vision["hidden_size"]),
            ),
        }

    def load(self, folder: Path, config: Config) -> tuple[Any, Sequence[str]]:
        from transformers import SiglipConfig, SiglipModel

        return loaded(SiglipModel, SiglipConfig, folder, config, attn_implementation="sdpa")

    def image_tokens(self, towers: Towers, preprocessing: AnyPreprocessing) -> int:
        return super().image_tokens(towers, preprocessing) - 1

    def encode_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", model.vision_model(pixel_values=inputs[0]).pooler_output)

    def project_image(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        return features

    def text_batches(self, ids: Ids, tokens: int, longest: int) -> Iterator[list[int]]:
        size = max(1, tokens // longest)
        return (list(range(start, min(start + size, len(ids)))) for start in range(0, len(ids), size))

    def text_inputs(self, model: Any, ids: Ids, padding: int) -> tuple[NDArray[Any], ...]:
        return (padded(ids, padding, min(_PADDED, model.config.text_config.max_position_embeddings)),)

    def encode_text(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", model.text_model(input_ids=inputs[0]).pooler_output)

    def sample_outputs(self, model: Any) -> dict[str, torch.Tensor]:
        return {
            "image": self.encode_image(model, sample_pixels(model)),
            "text": self.encode_text(model, sample_tokens(model)),
        }

    def lora_pattern(self, towers: Sequence[str], modules: Sequence[str]) -> str:
        """Without the pooling head, whose attention uses its weights without calling its modules."""
        return super().lora_pattern(towers, modules).replace(r"\.", r"\.encoder\.", 1)
