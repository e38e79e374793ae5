"""The memory of training, on a fake device: weights, activations of a chunk, gradients, optimizer state."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fake_cuda import TRAINED, fake_card
from large_models import LARGE

from clipstore.encoders.lora import LoraModel
from clipstore.records import Lora, Training
from clipstore.training.fit import _optimizer
from clipstore.training.gradients import Batch, backward

GUIDE = Path(__file__).parent.parent.parent / "docs" / "fine-tuning.md"
TITLES = {"vit-b-32": "ViT-B/32", "vit-l-14-336": "ViT-L/14, 336 pixels"}
TOWERS = (("text",), ("text", "vision"))
MB = 10**6


def peaks(name: str, towers: tuple[str, ...], chunks: tuple[int, ...]) -> tuple[list[int], int, int]:
    """Bytes of the activations of 8 pairs in each of `chunks`; of the trained weights; of gradients and optimizer."""
    training = Training(split="a/b", validation="a/c", heads=True, lora=Lora(towers=towers))
    loaded, activations = LARGE[name](), []
    with fake_card() as card:
        learner = LoraModel(loaded, training, device=TRAINED)
        weights, before = list(learner.weights().values()), card.live
        optimizer = _optimizer(weights, training)
        batch = batch_of(learner, 8)
        learner.train(on=True)
        for chunk in chunks:
            optimizer.zero_grad()
            card.peak, live = card.live, card.live
            backward(learner, batch, chunk=chunk, mask_siblings=False)
            activations.append(card.peak - live)
        optimizer.step()
        return activations, sum(weight.nbytes for weight in weights), card.live - before


def batch_of(learner: LoraModel, pairs: int) -> Batch:
    height, width = learner.encoder.preprocessing.crop
    pixels = torch.zeros((pairs, height, width, 3), dtype=torch.uint8)
    images = pixels if learner.trains_vision else torch.zeros((pairs, learner._model.config.vision_config.hidden_size))
    return Batch(images=images, ids=[[*[5] * 76, 49_407]] * pairs, image=torch.arange(pairs))


@pytest.mark.parametrize("towers", TOWERS)
@pytest.mark.parametrize("name", TITLES)
def test_the_guide_states_what_a_pair_takes(name: str, towers: tuple[str, ...]) -> None:
    row = re.search(rf"^\| {re.escape(TITLES[name])} \|(.+)\|$", GUIDE.read_text(), re.MULTILINE)
    assert row
    stated = int(row[1].split("|")[TOWERS.index(towers)].removesuffix(" MB ").replace(",", ""))
    activations, _, _ = peaks(name, towers, (8,))
    assert activations[0] / 8 / MB == pytest.approx(stated, rel=0.03)


def test_memory_grows_with_the_chunk_and_not_with_the_batch() -> None:
    (whole, half, quarter), trained, held = peaks("vit-b-32", ("text",), (8, 4, 2))
    assert half / whole == pytest.approx(1 / 2, rel=0.1)
    assert quarter / whole == pytest.approx(1 / 4, rel=0.15)
    assert held == pytest.approx(3 * trained, rel=0.02)  # gradients and AdamW's two averages
