"""Packed texts attend to their own tokens, and plain attention equals torch's."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from clipstore.encoders.families.clip_forward import _plain_attention
from clipstore.encoders.families.packing import Packed, batches_of, pack

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40) | st.lists(st.just(1), min_size=1, max_size=140))


def attended_tokens(packed: Packed, text: int) -> list[tuple[int, int]]:
    """The tokens that the last token of a text attends to, itself included, in order, with their positions."""
    row, end = divmod(int(packed.ends[text]), packed.tokens.shape[1])
    places = np.flatnonzero(packed.attends[row, end])
    assert places[-1] == end
    for count, place in enumerate(places, 1):  # each token attends to those before it
        assert np.array_equal(np.flatnonzero(packed.attends[row, place]), places[:count])
    return list(zip(packed.tokens[row, places].tolist(), packed.positions[row, places].tolist(), strict=True))


@given(TEXTS.filter(bool))
def test_a_packed_text_attends_to_its_own_tokens_only(texts: list[list[int]]) -> None:
    packed = pack(texts)
    for number, text in enumerate(texts):
        assert attended_tokens(packed, number) == [(token, position) for position, token in enumerate(text)]
    assert packed.attends.any(axis=2).all()


@given(TEXTS, st.integers(0, 700))
def test_batches_of_texts_have_at_most_the_given_tokens(texts: list[list[int]], tokens: int) -> None:
    batches = list(batches_of(texts, tokens))
    assert sorted(number for batch in batches for number in batch) == list(range(len(texts)))
    for batch in batches:
        packed = pack([texts[number] for number in batch]).tokens
        assert packed.size <= tokens or packed.shape[0] == 1


def test_texts_with_a_common_prefix_share_its_tokens() -> None:
    packed = pack([[7, 1, 2, 3, 8], [7, 1, 2, 4, 8], [7, 1, 2, 3, 8], [7, 5, 8]])
    assert packed.tokens.tolist() == [[7, 1, 2, 3, 8, 4, 8, 5, 8]]
    assert packed.ends.tolist() == [4, 6, 4, 8]


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)))
def test_plain_attention_equals_torchs(seed: int, shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(*shape, 8, generator=draw) for _ in range(3)]
    bias = torch.randn(shape[0], 1, shape[2], shape[2], generator=draw)
    torch.testing.assert_close(_plain_attention(*parts, bias), scaled_dot_product_attention(*parts, attn_mask=bias))
