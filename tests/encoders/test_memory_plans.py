"""The batches that are planned for a memory take no more of it than is planned, on a fake GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from fake_cuda import CUDA, FakeCard, fake_card
from large_models import LARGE

from clipstore.encoders.blip_matching import MAX_TOKENS, BlipMatcher
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.images import PatchPreprocessing
from clipstore.errors import ModelError

GB = 2**30
CONTEXT = GB // 2  # bytes of a card that CUDA itself takes
EIGHT = 8 * GB  # the default of --memory


@contextmanager
def encoder_on(name: str, precision: str, memory: float = float("inf")) -> Iterator[tuple[FakeCard, Encoder]]:
    loaded = LARGE[name]()
    with fake_card(memory) as card:
        yield card, Encoder(loaded, precision=precision, device=CUDA)


def encode_batch(encoder: Encoder, tower: str, tokens: int) -> int:
    """Encode one batch of `tokens` tokens of the largest images or the longest texts; its number of items."""
    if tower == "image":
        preprocessing, count = encoder.preprocessing, max(1, tokens // encoder.image_tokens)
        patches = isinstance(preprocessing, PatchPreprocessing)
        size = (256, 256) if patches else preprocessing.crop
        encoder.image_features([np.zeros((*size, 3), dtype=np.uint8)] * count)
        return count
    rng, longest = np.random.default_rng(0), encoder._longest_text
    texts = [[*rng.integers(5, 20_000, longest - 1).tolist(), 30_000] for _ in range(tokens // longest + 1)]
    batch = next(iter(encoder.text_batches(texts, tokens)))
    encoder.text_vectors([texts[number] for number in batch])
    return len(batch)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("name", LARGE)
def test_a_batch_takes_no_more_than_is_planned(name: str, precision: str) -> None:
    with encoder_on(name, precision) as (card, encoder):
        weights = card.live
        assert encoder.weight_bytes <= weights < 1.01 * encoder.weight_bytes
        for tower in ("image", "text"):
            card.peak, memory = card.live, GB
            assert encode_batch(encoder, tower, encoder.batch_tokens(tower, memory)) > 1
            share = (card.peak - weights) / (memory / encoder.workers)
            assert 0.3 < share <= 1, f"{tower}: {share:.2f}"


@pytest.mark.parametrize("free", [1.0, 0.5])
@pytest.mark.parametrize("size", [6, 8, 12, 24, 80])
@pytest.mark.parametrize("name", ["vit-b-32", "siglip-so400m"])
def test_batches_fit_every_card(name: str, size: int, free: float) -> None:
    """With the default of --memory, also where another process has half of the card."""
    memory = int(free * size * GB) - CONTEXT
    with encoder_on(name, "fp16", memory) as (card, encoder):
        weights = card.live
        for tower in ("image", "text"):
            card.peak = card.live
            encode_batch(encoder, tower, encoder.batch_tokens(tower, EIGHT - weights))
            taken = weights + encoder.workers * (card.peak - weights)  # each has a batch at once
            assert taken <= min(memory, EIGHT)
        assert card.refused == 0


def test_weights_that_do_not_fit_are_an_error() -> None:
    """A ViT-bigG/14 has 4.7 GiB in fp16."""
    expected = r"the weights \(4,8\d\d MiB\) do not fit the free memory of cuda:0: free memory there"
    with pytest.raises(ModelError, match=expected), encoder_on("vit-bigg-14", "fp16", 4 * GB - CONTEXT):
        pass


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_texts_of_an_image_take_no_more_than_is_planned(precision: str) -> None:
    loaded = LARGE["blip-base"]()
    with fake_card() as card:
        matcher = BlipMatcher(loaded, precision=precision, device=CUDA)
        weights, memory = card.live, GB
        tokens = matcher.batch_tokens(memory)
        image = matcher.encode_image(np.zeros((384, 384, 3), dtype=np.uint8))
        count = tokens // MAX_TOKENS
        matcher.scores(image, [[5] * MAX_TOKENS] * (count - 1) + [[5] * (MAX_TOKENS - 1)])
    assert 0.3 < (card.peak - weights) / (memory / matcher.workers) <= 1
