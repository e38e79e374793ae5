"""A small LoRA model in training, and what its tests compare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from clipstore.encoders.lora import LoraClip
from clipstore.records import Lora, Model, Training

TRAINING = Training(split="a/train", validation="a/val")
STILL = replace(TRAINING, heads=True, temperature="trained", lora=Lora(dropout=0.0))


def tuned(base: Path, training: Training) -> LoraClip:
    learner = LoraClip(Model(name="m", family="clip", base=str(base)), training)
    generator = torch.Generator().manual_seed(1)
    for name, weight in learner.weights().items():
        if "lora_B" in name:  # zero at the start, where half of the gradient vanishes
            torch.nn.init.normal_(weight, std=0.1, generator=generator)
    learner.train(on=True)
    return learner


def assert_same_gradient(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert (value - other[name]).norm() <= 1e-5 * value.norm() + 1e-9, name
