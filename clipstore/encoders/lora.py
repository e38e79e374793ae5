"""A model in training: a base, a PEFT LoRA, and optionally its projection heads and temperature."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families.base import Family
from clipstore.encoders.loading import LoadedModel, linear_modules, load_heads, quiet_transformers
from clipstore.errors import ModelError
from clipstore.files import named_error
from clipstore.records import Lora, Training
from clipstore.training_files import HEADS

LARGEST_SCALE = math.log(100.0)  # CLIP's limit on the temperature

_TEMPERATURE = "logit_scale"


class LoraModel:
    """A base with a trainable adapter: the `Learner` of clipstore.training.

    Seeds torch's global random number generators with `training.seed`: the initial adapter and dropout depend on it.

    Attributes:
        encoder: shares the weights, so that its vectors are those of the current state of training.
        trains_vision: whether the adapter is on the vision tower too; training then needs pixels.

    Raises:
        ModelError: the base has no module of a name in `training.lora.modules`.
    """

    def __init__(
        self, loaded: LoadedModel, training: Training, *, precision: str = "fp32", device: str = "cpu"
    ) -> None:
        self._family, self._model = loaded.settings.family, loaded.model
        _check_training(self._family, self._model, training)
        self.encoder = Encoder(loaded, device=device)
        self.trains_vision = "vision" in training.lora.towers
        if device == "cpu":
            self._model.set_attn_implementation("eager")  # on CPUs its backward pass is faster than the fused one's
        self._mixed = precision == "bf16"
        torch.manual_seed(training.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
            self._adapter = get_peft_model(self._model, _peft_config(self._family, training.lora))
        self._adapter.create_or_update_model_card = _no_model_card
        parameters = dict(self._model.named_parameters())
        heads = self._family.heads if training.heads else ()
        temperature = (_TEMPERATURE,) if training.temperature == "trained" else ()
        self._heads = {name: parameters[name].requires_grad_(requires_grad=True) for name in (*heads, *temperature)}

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """The trained weights, by name."""
        return {name: weight for name, weight in self._model.named_parameters() if weight.requires_grad}

    def train(self, *, on: bool) -> None:
        """Turn dropout on or off."""
        self._model.train(on)

    def scale(self) -> torch.Tensor:
        """The factor of scores: the inverse of the temperature."""
        return self._family.scale(self._model)

    def image_vectors(self, images: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, dim) of backbone features (B, features_dim), or of uint8 pixels if vision is trained."""
        with self._precision():
            features = self.encoder.encode_image(images) if self.trains_vision else images
            return self.encoder.project_image(features)

    def text_vectors(self, ids: list[list[int]]) -> torch.Tensor:
        """Text vectors (B, dim) of token ids."""
        with self._precision():
            return self.encoder.encode_text(ids)

    def clamp_scale(self) -> None:
        """Keep a trained temperature within CLIP's limit."""
        if _TEMPERATURE in self._heads:
            with torch.no_grad():
                self._model.logit_scale.clamp_(max=LARGEST_SCALE)

    def save(self, folder: Path) -> None:
        """Write the adapter in PEFT's format, and the trained heads and temperature as heads.safetensors.

        Raises:
            OSError: the disk is full, or the folder cannot be written to.
        """
        try:
            with quiet_transformers():
                self._adapter.save_pretrained(str(folder), save_embedding_layers=False)
        except SafetensorError as error:
            raise named_error(error, folder) from error
        if self._heads:
            heads = {name: weight.detach().cpu().contiguous() for name, weight in self._heads.items()}
            (folder / HEADS).write_bytes(save(heads))

    def load(self, folder: Path) -> None:
        """Load the weights that `save` wrote.

        Raises:
            ModelError: they do not fit this model.
        """
        try:
            result = set_peft_model_state_dict(self._adapter, load_peft_weights(str(folder), device="cpu"))
        except (OSError, SafetensorError, RuntimeError, KeyError) as error:
            message = f"the checkpoint {folder} does not fit the job: {' '.join(str(error).split())}"
            raise ModelError(message) from error
        if result.unexpected_keys or any("lora_" in name for name in result.missing_keys):
            message = f"the checkpoint {folder} does not fit the job: its adapter is on other modules"
            raise ModelError(message)
        if self._heads:
            load_heads(self._model, folder / HEADS)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.encoder.device.type, dtype=torch.bfloat16) if self._mixed else nullcontext()


def _peft_config(family: Family, lora: Lora) -> LoraConfig:
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias="none",
        target_modules=family.lora_pattern(lora.towers, lora.modules),
    )


def _no_model_card(_folder: str) -> None:
    """Replaces PEFT's method, which renders an empty model card (README.md) at each checkpoint."""


def _check_training(family: Family, model: Any, training: Training) -> None:
    """Refuse a LoRA on modules that a model's towers do not have, and what its family cannot train."""
    heads = {name.split(".")[-2] for name in family.heads}
    available = [name for name in linear_modules(model) if name not in heads]
    for module in training.lora.modules:
        if module not in available:
            message = (
                f"the job's [train.lora] names the module {module!r}, and the base's towers have no linear module of "
                f"that name; available: {', '.join(available)}"
            )
            raise ModelError(message)
    if training.temperature == "trained" and not family.has_temperature:
        message = f'the job\'s [train] has temperature = "trained", and {family.title} has none: remove the key'
        raise ModelError(message)
    if "vision" in training.lora.towers and not family.has_input_size:
        message = (
            f"the job's [train.lora] names the vision tower, and images of {family.title} differ in size, which "
            'training does not batch: use towers = ["text"]'
        )
        raise ModelError(message)
