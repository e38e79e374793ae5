"""A small LoRA model in training, and an independent contrastive loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from clipstore.encoders.loading import load_model
from clipstore.encoders.lora import LoraModel
from clipstore.records import Lora, Model, Training

TRAINING = Training(split="a/train", validation="a/val")
NO_DROPOUT = replace(TRAINING, heads=True, temperature="trained", lora=Lora(dropout=0.0))

Numbers = Sequence[int] | None


def build_learner(base: Path, training: Training) -> LoraModel:
    """A LoRA in training whose B matrices are not zero: while they are, half of the gradient vanishes."""
    learner = LoraModel(load_model(Model(name="m", family="clip", base=str(base))), training)
    generator = torch.Generator().manual_seed(1)
    for name, weight in learner.weights().items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    learner.train(on=True)
    return learner


def reset_gradient(learner: LoraModel) -> None:
    """Set the gradients of all trained weights to None."""
    for weight in learner.weights().values():
        weight.grad = None


def read_gradient(learner: LoraModel) -> dict[str, torch.Tensor]:
    """A copy of the gradients, by the name of the weight."""
    return {name: weight.grad.clone() for name, weight in learner.weights().items() if weight.grad is not None}


def assert_same_gradient(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> None:
    """Gradients of all weights agree to 1e-5 of their norm."""
    assert expected.keys() == actual.keys()
    for name, value in expected.items():
        assert (value - actual[name]).norm() <= 1e-5 * value.norm() + 1e-9, name


def plain_loss(
    images: np.ndarray, texts: np.ndarray, scale: float, image: Numbers = None, text: Numbers = None
) -> float:
    """InfoNCE pair by pair, in float64; rows with equal numbers in `image` or in `text` are not negatives."""
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(images)):
        candidates = [i]
        for j in range(len(images)):
            equal = [numbers[i] == numbers[j] for numbers in (image, text) if numbers is not None]
            if j != i and not any(equal):
                candidates.append(j)
        for query, gallery in ((images[i], texts), (texts[i], images)):
            scores = [scale * float(query @ gallery[j]) for j in candidates]
            total += np.log(sum(np.exp(score - scores[0]) for score in scores)) / len(images)
    return total / 2
