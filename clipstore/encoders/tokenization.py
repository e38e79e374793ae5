"""Captions to token ids, by the model's own tokenizer.

A model reads the first tokens of a text, and a tokenizer reads all of it, which takes a minute for 50 MB. So of a long
text only the beginning is tokenized, where that provably gives the same tokens (see `_encode_long`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from clipstore.captions import MAX_CHARACTERS
from clipstore.encoders.families.base import Family
from clipstore.encoders.fingerprint_inputs import read_settings
from clipstore.encoders.loading import load_tokenizer
from clipstore.encoders.locate import locate
from clipstore.records import Model

_BEGINNING = 4096  # characters of a long text that are tokenized first: far more than a model reads
_GROWTH = 16
_SPACE = re.compile(r"[ \t\n\r]")


@dataclass(frozen=True, kw_only=True)
class TokenizedTexts:
    """Token ids of texts, each truncated to the model's longest text, and which texts were truncated.

    A text whose tokens cannot be determined within `MAX_CHARACTERS` has no ids; the reason is `captions.TOO_LONG`.
    """

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
    settings = read_settings(folder, model)
    tokenizer = load_tokenizer(settings, folder, model.base)
    return tokenize(settings.family, tokenizer, texts, settings.family.longest_text(settings.towers)).overlong


def tokenize(
    family: Family, tokenizer: Any, texts: list[str], max_tokens: int, *, beginning: int = _BEGINNING
) -> TokenizedTexts:
    """Token ids, at most `max_tokens` per text.

    A start or end token that a text contains as text would end that text for the model. Such texts are tokenized as
    plain text throughout. All others are tokenized with transformers' defaults. Texts of at most `beginning` characters
    are tokenized as a whole, in one batch.
    """
    texts = [family.canonical(text) for text in texts]
    special = [contains_special_token(family, tokenizer, text) for text in texts]
    ids: list[list[int]] = [[] for _ in texts]
    overlong = [False] * len(texts)
    for as_plain_text in (False, True):
        rows = [row for row, contains in enumerate(special) if contains == as_plain_text]
        options = {"truncation": True, "max_length": max_tokens, "split_special_tokens": as_plain_text}
        short = [row for row in rows if len(texts[row]) <= beginning]
        for row, encoded in zip(short, _encode([texts[row] for row in short], tokenizer, options), strict=True):
            ids[row], overlong[row] = encoded
        for row in rows:
            if len(texts[row]) > beginning:
                ids[row], overlong[row] = _encode_long(tokenizer, texts[row], beginning, options)
    return TokenizedTexts(ids=ids, overlong=overlong)


def _encode_long(tokenizer: Any, text: str, beginning: int, options: dict[str, Any]) -> tuple[list[int], bool]:
    """The ids of a long text, and whether it was truncated; no ids if `MAX_CHARACTERS` do not decide them.

    Let A be the beginning of a text up to a space, and B the rest. For CLIP's tokenizer the tokens of A are the first
    tokens of AB:

    - its normalization (NFC, every run of white space to one space, lower case of each character) treats A and B
      separately: a space composes with no character;
    - no added token contains white space, so none is partly in A;
    - it splits texts into pieces of letters, digits or other characters, none of which contains white space, so that
      the pieces of A are the first pieces of AB; and the tokens of a piece depend on that piece alone.

    So where A alone has more tokens than the model reads, AB has the same ids, and is truncated too. Otherwise, a
    longer beginning is tokenized.
    """
    for part in _beginnings(text, beginning) if _splits_at_spaces(tokenizer) else ():
        ids, overlong = _encode([part], tokenizer, options)[0]
        if overlong:
            return ids, True
    return ([], True) if len(text) > MAX_CHARACTERS else _encode([text], tokenizer, options)[0]


def _encode(texts: list[str], tokenizer: Any, options: dict[str, Any]) -> list[tuple[list[int], bool]]:
    """The token ids of each text, and whether it was truncated."""
    if not texts:
        return []
    output = tokenizer(texts, **options)
    if tokenizer.is_fast:
        return [
            (ids, bool(encoding.overflowing))
            for ids, encoding in zip(output["input_ids"], output.encodings, strict=True)
        ]
    # SentencePiece's tokenizers do not say what they truncated.
    whole = tokenizer(texts, **options | {"truncation": False, "max_length": None, "verbose": False})["input_ids"]
    return [(ids, len(ids) < len(full)) for ids, full in zip(output["input_ids"], whole, strict=True)]


def _beginnings(text: str, size: int) -> Iterator[str]:
    """Beginnings of a text, each of which ends before a space; none has more than `MAX_CHARACTERS`."""
    while size < min(len(text), MAX_CHARACTERS):
        space = _SPACE.search(text, size, MAX_CHARACTERS)
        if space is None:
            return
        yield text[: space.start()]
        size = _GROWTH * space.start()


def _splits_at_spaces(tokenizer: Any) -> bool:
    """Whether a tokenizer normalizes and splits texts as CLIP's does, and no token that was added has white space."""
    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    parts = (repr(backend.normalizer), repr(backend.pre_tokenizer))
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    return parts == _clip_parts() and not any(character.isspace() for token in added for character in token)


@cache
def _clip_parts() -> tuple[str, str]:
    """The normalizer and the splitting of CLIP's tokenizer, as transformers builds it."""
    from transformers import CLIPTokenizer

    backend = CLIPTokenizer().backend_tokenizer
    return repr(backend.normalizer), repr(backend.pre_tokenizer)


def contains_special_token(family: Family, tokenizer: Any, text: str) -> bool:
    """Whether a text contains a start or end token such as "<|endoftext|>" as text, in upper or lower case."""
    lowered = text.lower()  # a tokenizer may search the normalized text for its special tokens
    return any(token.lower() in lowered for token in family.special_tokens(tokenizer))
