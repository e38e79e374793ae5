"""`embed` as a whole on a fake GPU, also on one with little memory: nothing that it plans is refused there."""

from __future__ import annotations

from math import prod
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from fake_cuda import CUDA, FakeCard, fake_card, outside
from helpers import stored_vectors

from clipstore.encoders import loading
from clipstore.encoders.locate import locate
from clipstore.encoders.weights import tensor_shapes
from clipstore.errors import ModelError
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.embed.summary import EmbedSummary
from clipstore.store.layout import Store

SHAPES = tensor_shapes(locate("bundled:demo") / "model.safetensors").values()
WEIGHTS = 4 * sum(prod(shape) for _, shape in SHAPES)  # bytes in fp32
MB = 10**6


def embed_on(store: Path, memory: float) -> tuple[FakeCard, list[EmbedSummary]]:
    """Embed the scenes with the bundled model in fp16 on a card; files are read outside of it."""
    load = patch.object(loading, "load_model", outside(loading.load_model))
    with load, fake_card(memory) as card:
        return card, embed(Store(store), ["demo"], EmbedOptions(precision="fp16", devices=(CUDA,)))


@pytest.mark.parametrize("memory", [80_000 * MB, 2 * WEIGHTS, WEIGHTS])
def test_everything_is_embedded_within_the_memory(memory: int, scene_store: Path) -> None:
    """The last card has no room for the comparison in fp32, which runs on the CPU."""
    card, summaries = embed_on(scene_store, memory)
    assert [(summary.planned, summary.done, summary.pieces) for summary in summaries] == [(24, 24, 1), (120, 120, 1)]
    assert (card.refused, card.live) == (0, 0)
    assert (card.peak > WEIGHTS) == (memory > WEIGHTS)  # the comparison in fp32
    assert np.isfinite(stored_vectors(scene_store, "captions")).all()


def test_a_card_without_room_for_the_weights_is_one_line(scene_store: Path) -> None:
    with pytest.raises(ModelError, match=r"the weights .* do not fit the free memory of cuda:0: free memory there"):
        embed_on(scene_store, WEIGHTS // 3)
