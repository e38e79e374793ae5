"""Train a tokenizer of CLIP's kind on captions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

MAX_TOKENS = 77

_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def train_tokenizer(captions: Sequence[str], *, max_merges: int) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer with at most `max_merges` merges learned from `captions`; it encodes any text.

    Its vocabulary has two tokens per byte (within and at the end of a word), the merges, and the start and end tokens.
    """
    backend = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(
        vocab_size=2 * len(alphabet) + max_merges,
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]][:max_merges]
    # Rebuilt in CLIP's order: a learned vocabulary lacks the bytes that ended no word, and the end token must have the
    # highest id (but not 2, which has a special meaning for CLIPModel).
    endings = [byte + _WORD_END for byte in alphabet]
    tokens = dict.fromkeys([*alphabet, *endings, *(left + right for left, right in merges), _BOS, _EOS])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
