"""Texts that are longer than a model reads: only their beginning is tokenized, with the same tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from helpers import examples
from hypothesis import example, given
from hypothesis import strategies as st

from clipstore.captions import MAX_CHARACTERS, TOO_LONG
from clipstore.encoders.families.clip import Clip
from clipstore.encoders.locate import locate
from clipstore.encoders.tokenization import TokenizedTexts, tokenize

Run = Callable[..., Result]

MAX_TOKENS = 6

WORDS = st.sampled_from(
    ["a", "red", "circle", "'s", "'", "1", "22", "!", "é", "e\u0301", "\u0301",
     "İ", "ß", "Σ", "中文", "👩‍👩‍👧", "\u00a0", "\u2003",
     "\x1c", "\x00", "\u200d", "<|endoftext|>", "<|STARTOFTEXT|>", "<|endof", "text|>", "\n", "\t", "  "]
)  # fmt: skip
CLIP = Clip()
TEXTS = st.lists(WORDS | st.text(max_size=4), min_size=1, max_size=40).flatmap(
    lambda words: st.lists(st.sampled_from(["", " ", "\n"]), min_size=len(words), max_size=len(words)).map(
        lambda gaps: "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    )
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return CLIP.load_tokenizer(locate("bundled:demo"))


@given(text=TEXTS)
@example(text="a circle <|endoftext|> a circle a circle a circle")
@example(text="a circle a circle a circle a circle a circle <|endoftext|>")
@example(text="e \u0301" * 20)
@examples(2000)
def test_a_cut_text_has_the_tokens_of_the_whole_text(tokenizer: Any, text: str) -> None:
    whole = tokenize(CLIP, tokenizer, [text], MAX_TOKENS, beginning=10**9)
    for beginning in (1, 5, 12):
        assert tokenize(CLIP, tokenizer, [text], MAX_TOKENS, beginning=beginning) == whole


@pytest.mark.full
@given(text=TEXTS)
@examples(500)
def test_a_cut_text_has_the_tokens_of_the_whole_text_with_the_vocabulary_of_clip(small_clip: Path, text: str) -> None:
    tokenizer = CLIP.load_tokenizer(small_clip)
    whole = tokenize(CLIP, tokenizer, [text], MAX_TOKENS, beginning=10**9)
    assert tokenize(CLIP, tokenizer, [text], MAX_TOKENS, beginning=5) == whole


def test_a_tokenizer_that_does_not_split_at_spaces_reads_whole_texts(tokenizer: Any, tmp_path: Path) -> None:
    """An added token with a space, of which the cut would separate the halves."""
    tokenizer.save_pretrained(tmp_path)
    other = CLIP.load_tokenizer(tmp_path)
    other.add_tokens(["circle circle"])
    text = "circle " * 40
    whole = tokenize(CLIP, other, [text], MAX_TOKENS, beginning=10**9)
    assert tokenize(CLIP, other, [text], MAX_TOKENS, beginning=10) == whole
    assert whole.ids != tokenize(CLIP, tokenizer, [text], MAX_TOKENS).ids


def test_a_text_of_50_mb_takes_little_time(tokenizer: Any) -> None:
    text = "a red circle " * 4_000_000
    began = time.process_time()
    assert tokenize(CLIP, tokenizer, [text], 77) == tokenize(CLIP, tokenizer, [text[:3000]], 77)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["a" * (MAX_CHARACTERS + 1), "a" + " " * MAX_CHARACTERS])
def test_a_text_that_cannot_be_cut_is_refused(tokenizer: Any, text: str) -> None:
    assert tokenize(CLIP, tokenizer, [text, "a"], 77).ids == [[], tokenize(CLIP, tokenizer, ["a"], 77).ids[0]]


def test_a_caption_that_cannot_be_cut_is_an_item_failure(
    cli: Run, cli_json: Callable[..., Any], tmp_path: Path
) -> None:
    sentences = [{"raw": text, "sentid": text[:3]} for text in ("a" * (MAX_CHARACTERS + 1), "red circle")]
    images = [{"filename": "a.jpg", "split": "all", "sentences": sentences}]
    (tmp_path / "a.json").write_text(json.dumps({"dataset": "a", "images": images}))
    cli("ingest", "karpathy", tmp_path / "a.json", tmp_path)
    (summary,) = cli_json(
        "embed", "--model", "demo", "--split", "a/all", "--only", "captions", "--allow-failures", "1"
    )["embedded"]
    assert (summary["done"], summary["failed"]) == (1, 1)
    assert TOO_LONG in [row["reason"] for row in cli_json("query", "item_failures")]


def test_no_texts(tokenizer: Any) -> None:
    assert tokenize(CLIP, tokenizer, [], 77) == TokenizedTexts(ids=[], overlong=[])
