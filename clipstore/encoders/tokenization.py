"""Captions to token ids, by the model's own tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clipstore.encoders.fingerprint_inputs import longest_text
from clipstore.encoders.loading import load_tokenizer
from clipstore.encoders.model_files import locate
from clipstore.records import Model


@dataclass(frozen=True, kw_only=True)
class TokenizedTexts:
    """Token ids of texts, each truncated to the model's longest text, and which texts were truncated."""

    ids: list[list[int]]
    overlong: list[bool]

    @property
    def cut(self) -> int:
        """The number of truncated texts."""
        return sum(self.overlong)


def overlong_texts(model: Model, texts: list[str]) -> list[bool]:
    """Which texts have more tokens than a model takes; loads its tokenizer and no weights.

    Raises:
        ModelError: the model's files are missing or cannot be read.
    """
    folder = locate(model.base)
    return tokenize(load_tokenizer(str(folder), model.base), texts, longest_text(folder)).overlong


def tokenize(tokenizer: Any, texts: list[str], max_tokens: int) -> TokenizedTexts:
    """Token ids, at most `max_tokens` per text.

    A start or end token that a text contains as text would end that text for the model. Such texts are tokenized as
    plain text throughout. All others are tokenized with transformers' defaults.
    """
    special = [contains_special_token(tokenizer, text) for text in texts]
    ids: list[list[int]] = [[] for _ in texts]
    overlong = [False] * len(texts)
    for as_plain_text in (False, True):
        rows = [row for row, contains in enumerate(special) if contains == as_plain_text]
        if not rows:
            continue
        batch = [texts[row] for row in rows]
        output = tokenizer(batch, truncation=True, max_length=max_tokens, split_special_tokens=as_plain_text)
        for row, input_ids, encoding in zip(rows, output["input_ids"], output.encodings, strict=True):
            ids[row], overlong[row] = input_ids, bool(encoding.overflowing)
    return TokenizedTexts(ids=ids, overlong=overlong)


def contains_special_token(tokenizer: Any, text: str) -> bool:
    """Whether a text contains a start or end token such as "<|endoftext|>" as text, in upper or lower case."""
    lowered = text.lower()  # a tokenizer may search the normalized text for its special tokens
    return any(token.lower() in lowered for token in (tokenizer.bos_token, tokenizer.eos_token) if token)
