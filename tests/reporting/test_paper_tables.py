"""Tables for papers: a small example written by hand, and tables with any names, read back by a parser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from helpers import CAPTIONS, IMAGES, write_dataset
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from clipstore.errors import NotFoundError
from clipstore.pipeline.report.options import ReportOptions
from clipstore.pipeline.report.run import paper_tables
from clipstore.records import Row
from clipstore.reporting.paper_tables import latex, markdown
from clipstore.store.evaluations import read_evaluations
from clipstore.store.layout import Store


def evaluation(model: str, values: Mapping[str, float], **measured_on: Any) -> Row:
    """An evaluation as `clipstore eval --json` prints it."""
    provenance: Row = {
        "split": "coco/val",
        "protocol": "standard",
        "split_digest": "5" * 64,
        "gallery_digest": "6" * 64,
        "caption_set": "all",
        "unseen": False,
        "partial": False,
        "images": 1000,
        "captions": 5000,
        "asked_images": 1000,
        "image_queries": 1000,
        "caption_queries": 5000,
        "seen_images": 0,
        "reranker": None,
        "images_without_positive": 0,
        "captions_without_positive": 0,
        "lost_positives": 0,
        "left_out_images": 0,
        "left_out_captions": 0,
        "precision": "bf16",
        "dtype": "float16",
        "image_fingerprint": "a" * 64,
        "text_fingerprint": "b" * 64,
        "tied_pairs": 7,
        **measured_on,
    }
    return {
        "model": model,
        "split": provenance["split"],
        "protocol": provenance["protocol"],
        "metrics": dict(values),
        "measured_on": provenance,
    }


def metrics(text: tuple[float, ...], image: tuple[float, ...], rsum: float) -> dict[str, float]:
    names = ("recall@1", "recall@5", "recall@10", "mrr", "median_rank", "mean_rank", "r_precision", "map@r")
    directions = (("text_retrieval", text), ("image_retrieval", image))
    return {f"{prefix}_{name}": v for prefix, values in directions for name, v in zip(names, values, strict=True)} | {
        "rsum": rsum
    }


# Recall@1 image → text is equal as printed (50.0), and so is the median rank: there is no best value.
ONE = metrics((0.50041, 0.75, 0.8349, 0.6126, 1, 5, 0.3, 0.2), (0.304, 0.5594, 0.669, 0.42, 4, 20, 0.3, 0.3), 361.9)
TWO = metrics((0.49961, 0.794, 0.866, 0.6354, 1, 4, 0.3, 0.2), (0.365, 0.611, 0.7, 0.48, 3.6, 15, 0.3, 0.3), 383.56)


def difference(
    direction: str, metric: str, baseline: float, value: float, low: float | None, high: float | None, p: float
) -> Row:
    values = {"baseline": baseline, "value": value, "difference": value - baseline}
    return {"direction": direction, "metric": metric, **values, "low": low, "high": high, "p": p / 2, "p_holm": p}


COMPARISON: Row = {
    "baseline": "one",
    "measured_on": evaluation("one", ONE)["measured_on"]
    | {"models": {"one": {"seen_images": 0}, "two_b": {"seen_images": 120}}},
    "method": {"resamples": 9000, "flips": 8000, "confidence": 0.95, "seed": 3, "clusters": 1000, "comparisons": 5},
    "models": [
        {
            "model": "two_b",
            "differences": [
                difference("image_to_text", "recall@1", 0.5, 0.56, 0.021, 0.1, 0.0004),
                difference("image_to_text", "mrr", 0.61, 0.62, -0.004, 0.0236, 0.05),
                difference("text_to_image", "mean_rank", 20, 15.5, -7.04, -2, 0.0499),
                difference("text_to_image", "recall@10", 0.7, 0.69, None, None, 0.009),
                difference("both", "rsum", 361.9, 361.88, -4, 5, 1),
            ],
        }
    ],
}
GOLDEN = Path(__file__).parent / "paper_tables"


@pytest.mark.parametrize(("form", "write"), [("md", markdown), ("tex", latex)])
def test_golden(form: str, write: Callable[..., str]) -> None:
    """paper_tables/golden.md and golden.tex were written by hand from the numbers above."""
    evaluations = [evaluation("one", ONE), evaluation("two_b", TWO, seen_images=120)]
    assert write(evaluations, [COMPARISON]) == (GOLDEN / f"golden.{form}").read_text(encoding="utf-8")


def parse_tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text, by an independent parser: rows of cells as they are displayed."""
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level >= 4 and token.map:
            tables[-1][-1].append("".join(part.content for part in token.children or []))
    return tables


def one_line(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


AS_PRINTED = ["50.0", "75.0", "83.5", "0.613", "1", "30.4", "55.9", "66.9", "0.420", "4", "361.9"]
NAMES = st.text(min_size=1, max_size=20) | st.text(alphabet="\\`*_{}[]<>()#+-.!|~$&%^\"' \n1a", min_size=1, max_size=20)


@given(name=NAMES, split=NAMES)
def test_names_are_escaped_in_markdown(name: str, split: str) -> None:
    text = markdown([evaluation(name, ONE, split=split), evaluation("two", TWO, split=split)])
    (rows,) = parse_tables(text)
    assert [len(row) for row in rows] == [12, 12, 12]
    assert rows[1] == [one_line(name), *AS_PRINTED]
    first, *_ = (token for token in MarkdownIt("commonmark").enable("table").parse(text) if token.type == "inline")
    caption = "".join(part.content for part in first.children or [])
    assert caption.startswith(one_line(f"Retrieval on {split} (555555555555): 1,000 images"))


# The commands that an escaped text may have, and what LaTeX typesets for them.
TYPESET = {
    **{f"\\{character}": character for character in "&%$#_{}"},
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textasciigrave{}": "`",
    r"$\to$": "→",
    "$-$": "\N{MINUS SIGN}",
    "{}": "",
}
TOKEN = re.compile("|".join(re.escape(command) for command in sorted(TYPESET, key=len, reverse=True)))


@given(name=NAMES, split=NAMES)
def test_names_are_escaped_in_latex(name: str, split: str) -> None:
    text = latex([evaluation(name, ONE, split=split), evaluation("two", TWO, split=split)])
    rows = re.search(r"\\midrule\n(.*)\n\\bottomrule", text, re.DOTALL)
    assert rows
    lines = rows[1].split("\n")
    assert len(lines) == 2
    assert all(line.endswith(r" \\") for line in lines)
    cells = re.split(r"(?<!\\) & ", lines[0].removesuffix(r" \\"))
    assert len(cells) == 12
    assert cells[0][:1] not in ("[", "*")  # would be an option of the row before
    assert "--" not in cells[0]  # would be typeset as a dash
    assert not re.search(r"[\\{}$&#^_~%<>|`]", TOKEN.sub("", cells[0]))  # no special character is unescaped
    assert TOKEN.sub(lambda match: TYPESET[match[0]], cells[0]) == one_line(name)
    unescaped = re.sub(r"\\[&%$#_{}\\]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)%", text.split("\n", 1)[1])  # would start a comment


def test_each_gallery_and_set_of_queries_has_a_table() -> None:
    different: list[Row] = [
        {"split": "coco/test"},
        {"split_digest": "7" * 64},
        {"gallery_digest": "8" * 64},
        {"protocol": "paired-rows"},
        {"caption_set": "first5"},
        {"unseen": True},
        {"unseen": True, "asked_images": 900},
    ]
    evaluations = [evaluation("m", ONE), *(evaluation("m", TWO, **key) for key in different), evaluation("n", ONE)]
    tables = parse_tables(markdown(evaluations))
    assert [[row[0] for row in rows[1:]] for rows in tables] == [["m", "n"], *[["m"]] * len(different)]
    labels = re.findall(r"\\label\{(.*?)\}", latex(evaluations))
    assert len(labels) == len(different) + 1
    lines = markdown(evaluations[1:-1]).splitlines()  # one model in each table: no best value
    assert "**" not in "".join(line for line in lines if line.startswith("|"))


def test_protocols_have_their_own_columns() -> None:
    paired = {name: value for name, value in ONE.items() if name.startswith("text_retrieval")}
    (rows,) = parse_tables(markdown([evaluation("m", paired, protocol="paired-rows")]))
    assert rows[0] == ["model", *(f"image → text {title}" for title in ("R@1", "R@5", "R@10", "MRR", "MedR"))]
    assert "cannot exceed 0.200" in markdown([evaluation("m", paired, protocol="paired-rows")])
    (rows,) = parse_tables(markdown([evaluation("m", ONE, protocol="eccv")]))
    assert rows[0][6:8] == ["image → text mAP@R", "image → text R-P"]
    assert rows[1][6:8] == ["20.0", "30.0"]


def test_no_evaluations_give_no_table() -> None:
    assert markdown([]).strip() == ""


# --- of a store


@pytest.fixture
def measured(cli: Callable[..., Result], import_vectors: Callable[..., Result], tmp_path: Path, store: Path) -> Store:
    """Two models evaluated by two protocols, and a third that was not evaluated."""
    cli("ingest", "csv", write_dataset(tmp_path, "golden", CAPTIONS))
    texts = {text: vector for captions in CAPTIONS.values() for text, vector in captions.items()}
    for name in ("b", "a", "imported"):
        import_vectors(name, "golden/all", IMAGES, texts)
    cli("eval", "--model", "b", "--model", "a", "--split", "golden/all")
    cli("eval", "--model", "b", "--model", "a", "--split", "golden/all", "--protocol", "paired-rows")
    return Store(store)


def test_stored_evaluations_equal_what_eval_prints(measured: Store, cli_json: Callable[..., Any]) -> None:
    printed = cli_json("eval", "--model", "b", "--model", "a", "--split", "golden/all")["evaluations"]
    stored = [row for row in read_evaluations(measured, "golden/all", ["b", "a"]) if row["protocol"] == "standard"]
    assert json.loads(json.dumps(stored)) == printed
    assert [row["model"] for row in read_evaluations(measured, models=["a"])] == ["a", "a"]
    assert len(read_evaluations(measured)) == 4


def test_tables_of_a_store(measured: Store) -> None:
    """A table of metrics for each protocol, then the differences; models in the order named."""
    named = ReportOptions(splits=("golden/all",), models=("b", "a"))
    tables = parse_tables(paper_tables(measured, named, "md"))
    assert [[row[0] for row in rows[1:]] for rows in tables] == [["b", "a"], ["b", "a"], ["a"] * 11]
    assert paper_tables(measured, ReportOptions(), "tex").count(r"\begin{tabular}") == 3


@pytest.mark.parametrize(
    ("split", "models", "message"),
    [
        ("golden/al", [], "did you mean 'golden/all'"),
        ("golden/all", ["imported"], "run 'clipstore eval --model imported --split golden/all' first"),
        ("golden/all", ["a", "imported"], "run 'clipstore eval --model imported --split golden/all' first"),
    ],
)
def test_a_missing_evaluation_names_the_command(measured: Store, split: str, models: list[str], message: str) -> None:
    with pytest.raises(NotFoundError, match=re.escape(message)):
        paper_tables(measured, ReportOptions(splits=(split,), models=tuple(models)), "md")
