"""Blank captions count as empty everywhere: in ingest, cleaning, embedding, evaluation, retrieval and import."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import Result
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from clipstore.captions import is_blank
from clipstore.catalog import scratch

Run = Callable[..., Result]
Query = Callable[[str], list[dict[str, Any]]]
InSql = Callable[[str, list[str]], list[Any]]

BLANKS = ["", " ", "\t \r\n", "\u00a0", "\u200b", "\u3000\u2003", "\ufeff\u2060", "\x00\x85", "\u200e\u3164\u00ad"]
ALLOWED = "abcdefghijklmnopqrstuvwxyz0123456789 .,'"
CHARACTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]


@pytest.fixture(scope="module")
def in_sql() -> Iterator[InSql]:
    """The value of an expression over `text` for each text, in order."""
    with scratch() as session:

        def run(expression: str, texts: list[str]) -> list[Any]:
            session.stage(texts=pa.table({"place": range(len(texts)), "text": pa.array(texts, pa.string())}))
            return list(session.sql(f"SELECT {expression} AS value FROM texts ORDER BY place")["value"].to_pylist())

        yield run


def test_sql_and_python_agree_on_every_character(in_sql: InSql) -> None:
    assert in_sql("is_blank(text)", CHARACTERS) == [is_blank(character) for character in CHARACTERS]


def test_white_space_and_control_characters_are_blank_and_visible_characters_are_not() -> None:
    fillers = "\u115f\u1160\u3164\uffa0"  # Hangul letters that are not displayed
    for character in CHARACTERS:
        category = unicodedata.category(character)
        if character.isspace() or category in ("Zs", "Zl", "Zp", "Cc"):
            assert is_blank(character), hex(ord(character))
        if category[0] in "LNPS" and character not in fillers:
            assert not is_blank(character), hex(ord(character))


@examples(50)
@given(texts=st.lists(st.text(st.sampled_from("a \u00a0\u200b\u3000\t")), min_size=1))
def test_a_text_is_blank_if_every_character_is(in_sql: InSql, texts: list[str]) -> None:
    expected = [all(is_blank(character) for character in text) for text in texts]
    assert [is_blank(text) for text in texts] == expected
    assert in_sql("is_blank(text)", texts) == expected
    assert in_sql("model_text(text, 'a photo of {}', false) = ''", texts) == expected


@examples(50)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB \u00a0\u2003.!")), min_size=1)
)
def test_cleaning_folds_every_kind_of_white_space(in_sql: InSql, texts: list[str]) -> None:
    lower = in_sql("lower(text)", texts)
    expected = ["".join(character for character in " ".join(text.split()) if character in ALLOWED) for text in lower]
    assert in_sql("clean_caption(text)", texts) == [re.sub(" +", " ", text).strip(" ") for text in expected]


def test_a_no_break_space_separates_words_when_cleaned(in_sql: InSql) -> None:
    assert in_sql("clean_caption(text)", ["A\u00a0Dog\u3000runs", "a\u200bdog"]) == ["a dog runs", "adog"]


def test_every_reader_counts_the_same_blank_captions(cli_json: Any, sql: Query, tmp_path: Path) -> None:
    captions = ["a dog", *BLANKS]
    expected = len(BLANKS)
    images = [{"id": 1, "file_name": "a.jpg"}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_v.json").write_text(
        json.dumps(
            {
                "images": images,
                "annotations": [{"id": number, "image_id": 1, "caption": text} for number, text in enumerate(captions)],
            }
        )
    )
    sentences = [{"raw": text, "sentid": number} for number, text in enumerate(captions)]
    karpathy = {"dataset": "k", "images": [{"filename": "a.jpg", "split": "v", "sentences": sentences}]}
    (tmp_path / "k.json").write_text(json.dumps(karpathy))
    single_lines = [text for text in captions if not set("\r\n") & set(text)]
    tokens = "\n".join(f"a.jpg#{number}\t{text}" for number, text in enumerate(single_lines))
    (tmp_path / "Flickr8k.token.txt").write_text(tokens)
    table = "image_path,caption\n" + "".join(f'a.jpg,"{text}"\n' for text in captions if "\x00" not in text)
    (tmp_path / "t.csv").write_text(table, newline="")
    assert [
        cli_json("ingest", *words)["splits"][0]["empty_captions"]
        for words in (
            ["coco", tmp_path],
            ["karpathy", tmp_path / "k.json", tmp_path],
            ["flickr", tmp_path],
            ["csv", tmp_path / "t.csv"],
        )
    ] == [expected, expected, expected - 1, expected - 1]


def test_blank_captions_are_dropped_by_cleaning(cli_json: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    captions = ["a dog", *(text for text in BLANKS if "\x00" not in text)]
    table = "image_path,caption\n" + "".join(f'a.jpg,"{text}"\n' for text in captions)
    (tmp_path / "t.csv").write_text(table, newline="")
    assert cli_json("ingest", "csv", tmp_path / "t.csv", "--clean")["cleaned"]["captions_empty"] == len(captions) - 1


def test_blank_captions_are_embedded_as_failures_and_left_out(
    cli: Run, cli_json: Any, scenes: Path, sql: Query
) -> None:
    table = scenes / "blank.csv"
    image = json.loads((scenes / "annotations" / "captions_val.json").read_text())["images"][0]["file_name"]
    captions = ["a red square", *(text for text in BLANKS if "\x00" not in text)]
    table.write_text(
        "image_path,caption\n" + "".join(f'val/{image},"{text}"\n' for text in captions), newline="", encoding="utf-8"
    )
    cli("ingest", "csv", table)
    table.unlink()
    cli("embed", "--model", "demo", "--split", "blank/all", code=3)
    reasons = {row["reason"] for row in cli_json("query", "item_failures")}
    assert reasons == {"the caption is empty"}
    provenance = cli_json("eval", "--model", "demo", "--split", "blank/all")["evaluations"][0]["measured_on"]
    assert (provenance["captions"], provenance["left_out_captions"]) == (1, len(captions) - 1)
    texts = sql("SELECT text FROM caption_items JOIN models USING (model_id) WHERE name = 'demo' AND text != ''")
    assert texts == [{"text": "a red square"}]


@pytest.mark.parametrize("query", [text for text in BLANKS if "\x00" not in text], ids=ascii)
def test_a_blank_query_is_refused(scene_store: Path, cli: Run, query: str) -> None:
    message = cli("retrieve", query, "--model", "demo", "--split", "coco/val", code=1).stderr
    assert "empty text query" in message


def test_blank_captions_need_no_imported_vectors(cli: Run, cli_json: Any, tmp_path: Path, store: Path) -> None:
    """The result of vectors() can be imported as it is, although blank captions have no vectors."""
    (tmp_path / "t.csv").write_text('image_path,caption\na.jpg,a dog\na.jpg,"\u00a0\u200b"\nb.jpg,a cat\n')
    cli("ingest", "csv", tmp_path / "t.csv")
    words: list[object] = []
    for side, ids in (("image", ["a.jpg", "b.jpg"]), ("caption", ["a.jpg#0", "b.jpg#0"])):
        np.save(tmp_path / f"{side}s.npy", np.eye(2, dtype=np.float32))
        np.save(tmp_path / f"{side}_ids.npy", np.array(ids))
        words += [f"--{side}s", tmp_path / f"{side}s.npy", f"--{side}-ids", tmp_path / f"{side}_ids.npy"]
    cli("import", "m", "--split", "t/all", *words)
    (evaluation,) = cli_json("eval", "--model", "m", "--split", "t/all")["evaluations"]
    counts = {key: evaluation["measured_on"][key] for key in ("captions", "left_out_captions", "pending_captions")}
    assert counts == {"captions": 2, "left_out_captions": 1, "pending_captions": 0}
    assert evaluation["metrics"]["image_retrieval_recall@1"] == 1
