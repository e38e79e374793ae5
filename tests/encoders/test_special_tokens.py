"""Captions that contain a start or end token are encoded completely; truncated texts are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, CLIPConfig

import clipstore
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families.clip import Clip
from clipstore.encoders.loading import load_model
from clipstore.encoders.locate import locate
from clipstore.encoders.tokenization import overlong_texts
from clipstore.records import Model

Run = Callable[..., Result]
RunJson = Callable[..., Any]

DEMO = Model(name="demo", family="clip", base="bundled:demo")
TOKENS = ("<|startoftext|>", "<|endoftext|>")


@cache
def encoder() -> Encoder:
    return Encoder(load_model(DEMO))


@cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(locate(DEMO.base)))


@examples(60)
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=120), min_size=1, max_size=5))
def test_ordinary_captions_are_tokenized_as_transformers_does(texts: list[str]) -> None:
    expected = tokenizer()(texts, truncation=True, max_length=77)["input_ids"]
    tokenized = encoder().tokenize(texts)
    assert tokenized.ids == expected
    untruncated = tokenizer()(texts)["input_ids"]
    assert tokenized.overlong == [len(ids) > 77 for ids in untruncated] == overlong_texts(DEMO, texts)
    assert tokenized.cut == sum(tokenized.overlong)


@examples(30)
@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from([*TOKENS, *map(str.upper, TOKENS)]), st.sampled_from(["a red circle", " ", "x", "on blue "])
        ),
        min_size=2,
    )
)
def test_special_tokens_in_captions_are_plain_text(parts: list[str]) -> None:
    """The only start and end tokens are those around the text, and the ids decode to the text."""
    text = "".join(parts)
    (ids,) = encoder().tokenize([text]).ids
    start, end = tokenizer().bos_token_id, tokenizer().eos_token_id
    assert (ids[0], ids[-1], ids.count(start), ids.count(end)) == (start, end, 1, 1)
    if len(ids) < 77:
        assert tokenizer().decode(ids[1:-1]).replace(" ", "").lower() == text.replace(" ", "").lower()
    assert encoder().contains_special_token(text) == any(token in text.lower() for token in TOKENS)


def test_mixed_texts_keep_their_order() -> None:
    texts = ["a red circle", "a <|endoftext|> b", "a blue square", "<|startoftext|>"]
    together = encoder().tokenize(texts)
    assert together.ids == [encoder().tokenize([text]).ids[0] for text in texts]


LONG = "a red circle " + "and a blue square " * 40


@pytest.fixture
def captions_csv(tmp_path: Path) -> Path:
    """Two images with captions: two ordinary ones, one that contains an end token, and one that is too long."""
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{number}.png")
    captions = ["a red circle", "a red circle <|endoftext|> beside a blue square", LONG.strip()]
    rows = [f"0.png,{caption}" for caption in captions] + ["1.png,a blue square"]
    (tmp_path / "c.csv").write_text("image_path,caption\n" + "\n".join(rows) + "\n")
    return tmp_path / "c.csv"


def test_embed_encodes_and_counts_captions_with_special_tokens(
    cli: Run, cli_json: RunJson, captions_csv: Path, store: Path
) -> None:
    cli("ingest", "csv", captions_csv, "--name", "c")
    text = cli_json("embed", "--model", "demo", "--precision", "fp32")["embedded"][1]
    assert (text["done"], text["cut"], text["special_tokens"]) == (4, 1, 1)
    assert cli_json("embed", "--model", "demo")["embedded"][1]["special_tokens"] == 0  # nothing was tokenized
    ids, vectors = clipstore.open(store).vectors("demo", "c/all", "captions")
    plain, with_token = vectors[:2]
    assert len(ids) == 4
    assert plain @ with_token < 0.9  # 1.0 if the text after the token were dropped
    assert np.linalg.norm(with_token) == pytest.approx(1, abs=1e-6)


def test_embed_reports_captions_with_special_tokens(cli: Run, captions_csv: Path) -> None:
    cli("ingest", "csv", captions_csv, "--name", "c")
    assert "1 captions contain a special token such as <|endoftext|>" in cli("embed", "--model", "demo").stdout


def test_retrieve_reports_truncated_queries(cli: Run, cli_json: RunJson, captions_csv: Path) -> None:
    """Both a caption whose vector is stored and a sentence that is encoded for the query."""
    cli("ingest", "csv", captions_csv, "--name", "c")
    cli("embed", "--model", "demo")
    short, new = "a blue square", LONG + "and a green one"
    words = ("retrieve", LONG.strip(), new, short, "--model", "demo", "--split", "c/all")
    truncated = {query["query"]: query["answers"][0]["cut"] for query in cli_json(*words)["queries"]}
    assert truncated == {LONG.strip(): True, new: True, short: False}
    notes = [line for line in cli(*words).stderr.splitlines() if line.startswith("truncated to the token limit")]
    assert [line.split(": ", 1)[1] for line in notes] == [LONG.strip(), new]
    (image,) = cli_json("retrieve", captions_csv.parent / "0.png", "--model", "demo", "--split", "c/all")["queries"]
    assert image["answers"][0]["cut"] is False


@pytest.mark.parametrize("config_dict", [None, {}, {"max_position_embeddings": 20}, {"hidden_act": "relu"}], ids=str)
@pytest.mark.parametrize("text_config", [{}, {"max_position_embeddings": 40}], ids=str)
def test_the_longest_text_is_that_of_transformers(
    text_config: dict[str, Any], config_dict: dict[str, Any] | None, tmp_path: Path
) -> None:
    config = {"model_type": "clip", "text_config": text_config, "vision_config": {}}
    if config_dict is not None:
        config["text_config_dict"] = config_dict
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = CLIPConfig.from_pretrained(tmp_path).text_config.max_position_embeddings
    towers = {tower: Clip().tower_config(config, tower) for tower in ("text", "vision")}
    assert Clip().longest_text(towers) == expected
