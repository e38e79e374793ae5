"""Tables for papers: by hand on a small example; whatever the names, a table that reads back as it was."""

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
from clipstore.pipeline.report.paper_tables import paper
from clipstore.reporting.paper_tables import latex, markdown
from clipstore.store.evaluations import read_evaluations
from clipstore.store.layout import Store

Told = dict[str, Any]


def evaluation(model: str, values: Mapping[str, float], **measured_on: Any) -> Told:
    """An evaluation as `clipstore eval --json` has it."""
    on: Told = {
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
        "split": on["split"],
        "protocol": on["protocol"],
        "metrics": dict(values),
        "measured_on": on,
    }


def metrics(text: tuple[float, ...], image: tuple[float, ...], rsum: float) -> dict[str, float]:
    names = ("recall@1", "recall@5", "recall@10", "mrr", "median_rank", "mean_rank", "r_precision", "map@r")
    sides = (("text_retrieval", text), ("image_retrieval", image))
    return {f"{side}_{name}": v for side, values in sides for name, v in zip(names, values, strict=True)} | {
        "rsum": rsum
    }


# Recall@1 image → text is equal as printed (50.0), and so is its median rank: nobody is best there.
ONE = metrics((0.50041, 0.75, 0.8349, 0.6126, 1, 5, 0.3, 0.2), (0.304, 0.5594, 0.669, 0.42, 4, 20, 0.3, 0.3), 361.9)
TWO = metrics((0.49961, 0.794, 0.866, 0.6354, 1, 4, 0.3, 0.2), (0.365, 0.611, 0.7, 0.48, 3.6, 15, 0.3, 0.3), 383.56)


def difference(
    direction: str, metric: str, one: float, two: float, low: float | None, high: float | None, p: float
) -> Told:
    ends = {"low": low, "high": high, "p": p / 2, "p_holm": p}
    return {"direction": direction, "metric": metric, "baseline": one, "value": two, "difference": two - one, **ends}


COMPARISON: Told = {
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
    """tests/papers/golden.md and golden.tex, set by hand from the numbers above."""
    told = [evaluation("one", ONE), evaluation("two_b", TWO, seen_images=120)]
    assert write(told, [COMPARISON]) == (GOLDEN / f"golden.{form}").read_text(encoding="utf-8")


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as an independent parser reads them: rows of cells as they are shown."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4 and token.map:
            found[-1][-1].append("".join(part.content for part in token.children or []))
    return found


def folded(text: str) -> str:
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


AS_PRINTED = ["50.0", "75.0", "83.5", "0.613", "1", "30.4", "55.9", "66.9", "0.420", "4", "361.9"]
NAMES = st.text(min_size=1, max_size=20) | st.text(alphabet="\\`*_{}[]<>()#+-.!|~$&%^\"' \n1a", min_size=1, max_size=20)


@given(name=NAMES, split=NAMES)
def test_any_name_stands_in_markdown_as_it_is(name: str, split: str) -> None:
    text = markdown([evaluation(name, ONE, split=split), evaluation("two", TWO, split=split)])
    (rows,) = tables(text)
    assert [len(row) for row in rows] == [12, 12, 12]
    assert rows[1] == [folded(name), *AS_PRINTED]
    first, *_ = (token for token in MarkdownIt("commonmark").enable("table").parse(text) if token.type == "inline")
    said = "".join(part.content for part in first.children or [])
    assert said.startswith(folded(f"Retrieval on {split} (555555555555): 1,000 images"))


# What LaTeX makes of the commands that an escaped text may hold.
SHOWN = {
    **{f"\\{one}": one for one in "&%$#_{}"},
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
TOKEN = re.compile("|".join(re.escape(one) for one in sorted(SHOWN, key=len, reverse=True)))


@given(name=NAMES, split=NAMES)
def test_any_name_stands_in_latex_as_it_is(name: str, split: str) -> None:
    text = latex([evaluation(name, ONE, split=split), evaluation("two", TWO, split=split)])
    rows = re.search(r"\\midrule\n(.*)\n\\bottomrule", text, re.DOTALL)
    assert rows
    lines = rows[1].split("\n")
    assert len(lines) == 2
    assert all(line.endswith(r" \\") for line in lines)
    cells = re.split(r"(?<!\\) & ", lines[0].removesuffix(r" \\"))
    assert len(cells) == 12
    assert cells[0][:1] not in ("[", "*")  # which the end of the row before would take for its own
    assert "--" not in cells[0]  # which would be set as a dash
    assert not re.search(r"[\\{}$&#^_~%<>|`]", TOKEN.sub("", cells[0]))  # nothing special is left bare
    assert TOKEN.sub(lambda found: SHOWN[found[0]], cells[0]) == folded(name)
    bare = re.sub(r"\\[&%$#_{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)%", text.split("\n", 1)[1])  # which would begin a comment


def test_galleries_and_queries_never_share_a_table() -> None:
    different: list[Told] = [
        {"split": "coco/test"},
        {"split_digest": "7" * 64},
        {"gallery_digest": "8" * 64},
        {"protocol": "paired-rows"},
        {"caption_set": "first5"},
        {"unseen": True},
        {"unseen": True, "asked_images": 900},
    ]
    told = [evaluation("m", ONE), *(evaluation("m", TWO, **one) for one in different), evaluation("n", ONE)]
    found = tables(markdown(told))
    assert [[row[0] for row in rows[1:]] for rows in found] == [["m", "n"], *[["m"]] * len(different)]
    labels = re.findall(r"\\label\{(.*?)\}", latex(told))
    assert len(labels) == len(different) + 1
    assert "**" not in "".join(
        line for line in markdown(told[1:-1]).splitlines() if line.startswith("|")
    )  # alone: no best


def test_protocols_have_their_own_columns() -> None:
    paired = {name: value for name, value in ONE.items() if name.startswith("text_retrieval")}
    (rows,) = tables(markdown([evaluation("m", paired, protocol="paired-rows")]))
    assert rows[0] == ["model", *(f"image → text {title}" for title in ("R@1", "R@5", "R@10", "MRR", "MedR"))]
    assert "cannot exceed 0.200" in markdown([evaluation("m", paired, protocol="paired-rows")])
    (rows,) = tables(markdown([evaluation("m", ONE, protocol="eccv")]))
    assert rows[0][6:8] == ["image → text mAP@R", "image → text R-P"]
    assert rows[1][6:8] == ["20.0", "30.0"]


def test_nothing_measured_gives_nothing() -> None:
    assert markdown([]).strip() == ""


# --- of a store


@pytest.fixture
def measured(cli: Callable[..., Result], import_vectors: Callable[..., Result], tmp_path: Path, store: Path) -> Store:
    """Two models on a split in two protocols, and a third that was never evaluated."""
    cli("ingest", "csv", write_dataset(tmp_path, "golden", CAPTIONS))
    texts = {said: vector for own in CAPTIONS.values() for said, vector in own.items()}
    for name in ("b", "a", "lone"):
        import_vectors(name, "golden/all", IMAGES, texts)
    cli("eval", "--model", "b", "--model", "a", "--split", "golden/all")
    cli("eval", "--model", "b", "--model", "a", "--split", "golden/all", "--protocol", "paired-rows")
    return Store(store)


def test_kept_evaluations_are_what_eval_told(measured: Store, cli_json: Callable[..., Any]) -> None:
    told = cli_json("eval", "--model", "b", "--model", "a", "--split", "golden/all")["evaluations"]
    kept = [one for one in read_evaluations(measured, "golden/all", ["b", "a"]) if one["protocol"] == "standard"]
    assert json.loads(json.dumps(kept)) == told
    assert [one["model"] for one in read_evaluations(measured, models=["a"])] == ["a", "a"]
    assert len(read_evaluations(measured)) == 4


def test_a_paper_of_a_store(measured: Store, cli_json: Callable[..., Any]) -> None:
    """A table of metrics for each protocol, then the differences; models in the order named."""
    comparison = cli_json("compare", "b", "a", "--split", "golden/all")
    found = tables(paper(measured, ["golden/all"], ["b", "a"], "md", [comparison]))
    assert [[row[0] for row in rows[1:]] for rows in found] == [["b", "a"], ["b", "a"], ["a"] * 11]
    assert paper(measured, [], [], "tex", [comparison]).count(r"\begin{tabular}") == 3


@pytest.mark.parametrize(
    ("split", "models", "message"),
    [
        ("golden/al", [], "did you mean 'golden/all'"),
        ("golden/all", ["lone"], "run 'clipstore eval --model lone --split golden/all' first"),
        ("golden/all", ["a", "lone"], "run 'clipstore eval --model lone --split golden/all' first"),
    ],
)
def test_what_was_not_measured_names_the_command(measured: Store, split: str, models: list[str], message: str) -> None:
    with pytest.raises(NotFoundError, match=re.escape(message)):
        paper(measured, [split], models, "md")
