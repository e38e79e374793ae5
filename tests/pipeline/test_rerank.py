"""Reranking by a matching head: scores of coco-mini, ranks by them, resuming, stored scores, and errors."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from blip_folder import write_random_blip
from click.testing import Result
from helpers import import_vectors, query_rows, run_command
from numpy.typing import NDArray
from PIL import Image

import clipstore
from clipstore.pipeline.rerank.options import RerankOptions
from clipstore.pipeline.rerank.run import rerank
from clipstore.shards import read_scores
from clipstore.store.layout import Store

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Array = NDArray[Any]

SPLIT, TOP = "coco/val2017", 20


@pytest.fixture(scope="module")
def embedded(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small BLIP and a store of coco-mini with its vectors. Copy the store before changing it."""
    root = tmp_path_factory.mktemp("rerank")
    captions = json.loads((test_data / "coco-mini/annotations/captions_val2017.json").read_text())["annotations"]
    words = {word for row in captions for word in row["caption"].lower().split() if word.isalpha()}
    write_random_blip(root / "blip", words=sorted(words))
    run_command(root / "store", "ingest", "coco", test_data / "coco-mini", "--name", "coco", "--split", "val2017")
    run_command(root / "store", "model", "add", "blip", "--base", root / "blip")
    run_command(root / "store", "embed", "--model", "blip", "--split", SPLIT, "--precision", "fp32")
    run_command(root / "store", "embed", "--model", "demo", "--split", SPLIT, "--precision", "fp32")
    return root


@pytest.fixture(scope="module")
def scored(embedded: Path) -> Path:
    """The store with the scores of the first 20 candidates, and with evaluations by them. Copy before changing it."""
    store = embedded / "scored"
    shutil.copytree(embedded / "store", store)
    run_command(store, "rerank", "--model", "blip", "--split", SPLIT, "--top", TOP)
    run_command(store, "eval", "--model", "blip", "--split", SPLIT)
    run_command(store, "eval", "--model", "blip", "--split", SPLIT, "--rerank", "blip", "--top", TOP)
    return store


@pytest.fixture
def fresh(embedded: Path, store: Path) -> Path:
    """This test's store: coco-mini with vectors, without scores."""
    return Path(shutil.copytree(embedded / "store", store))


@pytest.fixture
def copied(scored: Path, store: Path) -> Path:
    """This test's store: a copy of `scored`."""
    return Path(shutil.copytree(scored, store))


def stored_pairs(store: Path) -> dict[tuple[str, str], float]:
    """Every stored score, by the content keys of the image file and of the text."""
    pairs = {}
    for file in sorted((store / "scores").glob("*/*.h5")):
        scores = read_scores(file).scores
        for image, text, score in zip(scores.image, scores.text, scores.score.tolist(), strict=True):
            key = scores.image_contents[image], scores.text_contents[text]
            assert key not in pairs
            pairs[key] = score
    return pairs


def items(store: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The images and captions of the split in the order of the gallery, with their content keys."""
    place = "JOIN split_images USING (image_id) ORDER BY split_images.position"
    images = query_rows(store, f"SELECT image_id, content, path FROM images {place}")
    columns = "caption_id, image_id, text, sha256(text) AS content"
    return images, query_rows(store, f"SELECT {columns} FROM captions {place}, captions.position")


def cosines(store: Path, model: str = "blip") -> Array:
    """The first-stage scores of all pairs, float64 (images, captions)."""
    sides = [clipstore.open(store).vectors(model, SPLIT, kind)[1].astype(np.float64) for kind in ("images", "captions")]
    return np.asarray(sides[0] @ sides[1].T)


def first_candidates(scores: Array, count: int) -> list[list[int]]:
    """The rows of the best candidates of each query, of equal scores the smaller row first."""
    return [sorted(range(len(row)), key=lambda place: (-row[place], place))[:count] for row in scores]


# ---- scores ----


def plain_scores(folder: Path, pairs: list[tuple[str, str]]) -> list[float]:
    """Scores of (image file, text) pairs by transformers' parts, one pair at a time: nothing is reused."""
    from transformers import BertTokenizer, BlipForImageTextRetrieval

    blip = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    tokenizer = BertTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    side = settings["size"]["height"]
    scores = []
    for path, text in pairs:
        with Image.open(path) as file:
            image = file.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        pixels = (np.asarray(image, np.float32) / 255 - settings["image_mean"]) / settings["image_std"]
        tokens = tokenizer(text, padding="max_length", truncation=True, max_length=35, return_tensors="pt")
        tokens.input_ids[:, 0] = len(tokenizer) + 1  # [ENC], after [DEC]
        with torch.inference_mode():
            states = blip.vision_model(torch.tensor(pixels).permute(2, 0, 1)[None].float()).last_hidden_state
            output = blip.text_encoder(
                tokens.input_ids,
                attention_mask=tokens.attention_mask,
                encoder_hidden_states=states,
                encoder_attention_mask=torch.ones(states.shape[:-1], dtype=torch.long),
            )
            scores.append(blip.itm_head(output.last_hidden_state[:, 0])[0, 1].item())
    return scores


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.full)])
def test_scores_equal_a_plain_loop_over_the_pairs(embedded: Path, scored: Path, step: int) -> None:
    """The pairs of both directions, each once; in short every 31st."""
    images, captions = items(scored)
    exact = cosines(scored)
    expected = {(i, t) for i, hits in enumerate(first_candidates(exact, TOP)) for t in hits}
    expected |= {(i, t) for t, hits in enumerate(first_candidates(exact.T, TOP)) for i in hits}
    stored = stored_pairs(scored)
    assert len(stored) == len({(images[i]["content"], captions[t]["content"]) for i, t in expected})
    sample = sorted(expected)[::step]
    found = [stored[images[i]["content"], captions[t]["content"]] for i, t in sample]
    plain = plain_scores(embedded / "blip", [(images[i]["path"], captions[t]["text"]) for i, t in sample])
    difference = np.abs(np.array(found) - plain)
    print(f"{len(sample):,} of {len(stored):,} pairs, greatest difference {difference.max():.1e}")
    assert difference.max() < 1e-4
    assert np.ptp(plain) > 0.1


def test_a_wrong_first_token_changes_the_scores(embedded: Path, scored: Path) -> None:
    """transformers' own forward pass keeps [CLS]: its scores are others."""
    from transformers import BertTokenizer, BlipForImageTextRetrieval, BlipImageProcessor

    images, captions = items(scored)
    blip, processor = (
        kind.from_pretrained(embedded / "blip") for kind in (BlipForImageTextRetrieval, BlipImageProcessor)
    )
    stored = stored_pairs(scored)
    image, text = next((i, t) for i, t in product(images, captions) if (i["content"], t["content"]) in stored)
    with Image.open(image["path"]) as file, torch.inference_mode():
        pixels = processor(file.convert("RGB"), return_tensors="pt").pixel_values
        tokens = BertTokenizer.from_pretrained(embedded / "blip")(text["text"], return_tensors="pt")
        output = blip(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    assert abs(output.itm_score[0, 1].item() - stored[image["content"], text["content"]]) > 1e-2


# ---- ranks ----


def check_ranks(store: Path, model: str, logits: Array, exact: Array, count: int, weight: float = 1.0) -> None:
    """The ranks and hits of an evaluation equal those of an order of all candidates that is written out."""
    images, captions = items(store)
    ids = {
        "image_to_text": [row["image_id"] for row in images],
        "text_to_image": [row["caption_id"] for row in captions],
    }
    candidates = {"image_to_text": ids["text_to_image"], "text_to_image": ids["image_to_text"]}
    where = f"JOIN evaluation_names USING (evaluation_id) WHERE model = '{model}'"
    ranks = query_rows(store, f"SELECT ranks.* FROM ranks {where}")
    hits = query_rows(store, f"SELECT hits.* FROM hits {where} ORDER BY position")
    orders: dict[tuple[str, int], list[tuple[int, float, int]]] = {}
    for direction, scores, values in (("image_to_text", exact, logits), ("text_to_image", exact.T, logits.T)):
        for row, first in enumerate(first_candidates(scores, len(scores[0]))):
            inside = [(0, float(values[row, c]) + weight * float(scores[row, c]), c) for c in first[:count]]
            behind = [(1, float(scores[row, c]), c) for c in first[count:]]
            order = [*sorted(inside, key=lambda entry: (-entry[1], entry[2])), *behind]
            orders[direction, ids[direction][row]] = [(g, s, candidates[direction][c]) for g, s, c in order]
    assert len(ranks) == 2 * len(captions)
    for row in ranks:
        order = orders[row["direction"], row["query_id"]]
        group, score, _ = next(entry for entry in order if entry[2] == row["positive_id"])
        assert row["score"] == pytest.approx(score, abs=1e-12)
        assert row["n_greater"] == sum(g < group or (g == group and s > score) for g, s, _ in order)
        assert row["n_equal"] == sum((g, s) == (group, score) for g, s, _ in order) - 1
    found: dict[tuple[str, int], list[int]] = {}
    for row in hits:
        found.setdefault((row["direction"], row["query_id"]), []).append(row["item_id"])
    assert found == {query: [item for _, _, item in order[:10]] for query, order in orders.items()}


def logit_matrix(store: Path) -> Array:
    """The stored score of every pair of the split, NaN for pairs without one."""
    images, captions = items(store)
    stored = stored_pairs(store)
    rows = [[stored.get((i["content"], c["content"]), np.nan) for c in captions] for i in images]
    return np.array(rows)


def test_ranks_by_20_candidates_equal_an_order_that_is_written_out(scored: Path) -> None:
    check_ranks(scored, f"blip+blip,top={TOP}", logit_matrix(scored), cosines(scored), TOP)


@pytest.mark.parametrize("weight", [1.0, 0.0, 2.5])
def test_everything_reranked_equals_the_full_score_matrix(copied: Path, cli: Run, weight: float) -> None:
    """With k = everything the order is that of the sums of all pairs; the weight needs no new scores."""
    cli("rerank", "--model", "blip", "--split", SPLIT, "--top", 395)
    cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", 395, "--rerank-weight", weight)
    label = "blip+blip,top=395" + (f",weight={weight}" if weight != 1 else "")
    logits, exact = logit_matrix(copied), cosines(copied)
    assert not np.isnan(logits).any()
    check_ranks(copied, label, logits, exact, 395, weight)
    sums = logits + weight * exact
    images, captions = items(copied)
    own = {row["image_id"]: place for place, row in enumerate(images)}
    for row in query_rows(copied, "SELECT query_id, n_greater FROM ranks JOIN evaluation_names USING (evaluation_id) "
                          f"WHERE model = '{label}' AND direction = 'text_to_image'"):  # fmt: skip
        place = next(number for number, caption in enumerate(captions) if caption["caption_id"] == row["query_id"])
        column = sums[:, place]
        assert row["n_greater"] == (column > column[own[captions[place]["image_id"]]]).sum()


def test_another_first_stage_uses_the_stored_scores(copied: Path, cli: Run, cli_json: RunJson) -> None:
    words = ("rerank", "--model", "blip", "--split", SPLIT, "--first", "demo", "--top", 5)
    message = cli("eval", "--model", "demo", "--split", SPLIT, "--rerank", "blip", "--top", 5, code=1).stderr
    assert (
        "have no score of blip: run 'clipstore rerank --model blip --split coco/val2017 --first demo --top 5'"
        in message
    )
    first = cli_json(*words)
    assert first["stored"] + first["scored"] == first["pairs"]
    assert first["stored"] > 0
    assert cli_json(*words) | {"seconds": 0} == first | {
        "stored": first["pairs"],
        "scored": 0,
        "shards": 0,
        "seconds": 0,
    }
    cli("eval", "--model", "demo", "--split", SPLIT, "--rerank", "blip", "--top", 5)
    check_ranks(copied, "demo+blip,top=5", logit_matrix(copied), cosines(copied, "demo"), 5)
    assert (
        cli_json("rerank", "--model", "blip", "--split", SPLIT, "--protocol", "paired-rows", "--top", 10)["scored"] == 0
    )


def test_protocols_and_captions_rank_by_the_same_scores(copied: Path, cli: Run, cli_json: RunJson) -> None:
    for words in (["--protocol", "paired-rows"], ["--captions", "first5"]):
        cli("rerank", "--model", "blip", "--split", SPLIT, "--top", TOP, *words)
        row = cli_json("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP, *words)["evaluations"][0]
        assert row["model"] == "blip+blip,top=20"
    assert stored_pairs(copied)


# ---- resuming ----

_INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from clipstore.pipeline.rerank.options import RerankOptions
from clipstore.pipeline.rerank.run import rerank
from clipstore.store.layout import Store

def on_progress(task, done, total, note=""):
    if "scored" in task and done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

options = RerankOptions(top=20, shard_pairs=700, on_progress=on_progress)
rerank(Store(Path(sys.argv[1])), "blip", "coco/val2017", options)
"""


def score_bytes(store: Path) -> dict[str, bytes]:
    """The bytes of every score shard, by file name."""
    return {file.name: file.read_bytes() for file in (store / "scores").glob("*/*.h5")}


def score(store: Path) -> None:
    """Run `rerank` to its end, with shards of the same size."""
    rerank(Store(store), "blip", SPLIT, RerankOptions(top=TOP, shard_pairs=700))


@pytest.mark.parametrize("kills", [[2000], pytest.param([900, 2000, 50, 3000], marks=pytest.mark.full)])
def test_killed_and_resumed_gives_the_same_bytes(embedded: Path, fresh: Path, tmp_path: Path, kills: list[int]) -> None:
    """Killed while a shard is computed, and with a shard that was written and not registered."""
    whole = Path(shutil.copytree(embedded / "store", tmp_path / "whole"))
    score(whole)
    for pairs in kills:
        command = [sys.executable, "-c", _INTERRUPTED, str(fresh), str(pairs)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert 0 < len(score_bytes(fresh)) < len(score_bytes(whole))
    with Store(fresh).catalog.write() as session:  # as if the process had been killed between writing and registering
        last = session.rows("rerank/files")[-1]["file"]
        session.run("rerank/delete_shards", files=[last])
    score(fresh)
    assert score_bytes(fresh) == score_bytes(whole)
    tables = [query_rows(store, "FROM score_shards ORDER BY file") for store in (fresh, whole)]
    assert tables[0] == tables[1]
    assert not list(fresh.rglob("*.tmp"))


# ---- the store ----


def test_a_damaged_score_shard_is_found_and_scored_again(copied: Path, cli: Run, cli_json: RunJson) -> None:
    before = score_bytes(copied)
    (file,) = (copied / "scores").glob("*/*.h5")
    damaged = bytearray(file.read_bytes())
    damaged[-200] ^= 1
    file.write_bytes(damaged)
    cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP, code=1)
    result = json.loads(cli("verify", "--json", code=1).stdout)
    assert [(row["kind"], row["file"]) for row in result["problems"]] == [("scores", str(file))]
    assert result["remedies"] == ["clipstore rerank --model blip"]
    assert "moved to quarantine" in cli_json("verify", "--repair")["problems"][0]["repaired"]
    assert "have no score of blip" in cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP, code=1).stderr
    cli("rerank", "--model", "blip", "--split", SPLIT, "--top", TOP)
    assert score_bytes(copied) == before
    assert cli_json("verify")["problems"] == []
    file.unlink()
    assert json.loads(cli("verify", "--json", code=1).stdout)["problems"][0]["problem"] == "the file does not exist"
    cli("rerank", "--model", "blip", "--split", SPLIT, "--top", TOP)
    assert score_bytes(copied) == before


def test_files_beside_score_shards_are_named(copied: Path, cli_json: RunJson) -> None:
    (file,) = (copied / "scores").glob("*/*.h5")
    shutil.copy(file, file.with_name("scores-0.h5"))
    file.with_name("notes.txt").write_text("mine")
    kinds = {row["kind"]: Path(row["file"]).name for row in cli_json("verify")["problems"]}
    assert kinds == {"orphan": "scores-0.h5", "unknown": "notes.txt"}


def test_scores_of_a_removed_model_are_garbage(copied: Path, cli: Run, cli_json: RunJson) -> None:
    assert {row["kind"]: row["files"] for row in cli_json("gc")["kinds"]}["scores"] == 0
    pairs = len(stored_pairs(copied))
    cli("model", "remove", "blip", "--yes")
    garbage = {row["kind"]: row for row in cli_json("gc", "--delete")["kinds"]}
    assert (garbage["scores"]["files"], garbage["scores"]["rows"]) == (1, pairs)
    assert not list((copied / "scores").glob("*/*.h5"))
    assert query_rows(copied, "FROM score_shards") == []


def test_a_rebuilt_catalog_has_the_scores_and_the_evaluations(copied: Path, cli: Run, cli_json: RunJson) -> None:
    tables = ("SELECT * FROM score_shards", "SELECT * FROM matching_heads")
    before = [query_rows(copied, table) for table in tables]
    metrics = cli_json("query", "metrics")
    (copied / "catalog.duckdb").write_bytes(b"damaged")
    result = json.loads(cli("catalog", "rebuild", "--evaluate", "--json").stdout)
    assert result["complete"]
    assert result["evaluations"][1]["command"] == (
        "clipstore eval --model blip --split coco/val2017 --captions all --rerank blip --top 20"
    )
    assert [query_rows(copied, table) for table in tables] == before
    assert cli_json("query", "metrics") == metrics


# ---- names ----


def test_reranked_evaluations_are_compared_by_name(copied: Path, cli: Run, cli_json: RunJson) -> None:
    label = f"blip+blip,top={TOP}"
    compared = cli_json("compare", "blip", label, "--split", SPLIT)
    assert (compared["baseline"], compared["models"][0]["model"]) == ("blip", label)
    measured = compared["measured_on"]["models"]
    assert measured["blip"]["reranker"] is None
    assert (measured[label]["reranker"], measured[label]["rerank_top"]) == ("blip", TOP)
    (row,) = cli_json("query", "evaluations", "-p", f"model={label}")
    assert (row["reranker"], row["rerank_top"], row["rerank_weight"]) == ("blip", TOP, 1.0)
    listed = {model["name"]: model["evaluations"] for model in cli_json("model", "list", "--split", SPLIT)["models"]}
    assert [evaluation["model"] for evaluation in listed["blip"]] == ["blip", label]
    printed = cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP).stdout
    assert f"RERANKED: the first {TOP} candidates of each query by the matching logit of blip (fp32" in printed
    assert label in cli("report", "--split", SPLIT, "--format", "md").stdout
    missing = cli("compare", "blip", "blip+blip", "--split", SPLIT, code=1).stderr
    assert "run 'clipstore eval --model blip --split coco/val2017 --rerank blip' first" in missing
    assert cli_json("eval", "remove", "--model", label, "--yes")["removed"]["evaluations"] == 1


def test_a_plain_evaluation_is_kept_beside_the_reranked_one(copied: Path, cli: Run) -> None:
    names = "SELECT model FROM evaluation_names ORDER BY model"
    expected = [{"model": "blip"}, {"model": "blip+blip,top=20"}]
    assert query_rows(copied, names) == expected
    cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP)
    cli("eval", "--model", "blip", "--split", SPLIT)
    assert query_rows(copied, names) == expected


def test_a_name_belongs_to_a_model_or_to_a_reranked_evaluation(copied: Path, cli: Run) -> None:
    cli("rerank", "--model", "blip", "--split", SPLIT)
    cli("eval", "--split", SPLIT, "--rerank", "blip")
    message = cli("model", "add", "blip+blip", "--base", "bundled:demo", code=1).stderr
    assert "'blip+blip' is the name of a reranked evaluation: choose another name" in message
    cli("eval", "remove", "--model", "blip+blip", "--yes")
    cli("model", "add", "blip+blip", "--base", "bundled:demo")
    message = cli("eval", "--split", SPLIT, "--rerank", "blip", code=1).stderr
    assert "blip+blip, which is the name of another model or evaluation" in message


def test_a_weight_of_minus_zero_is_zero(copied: Path, cli: Run) -> None:
    for weight in ("0", "-0.0"):
        cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP, "--rerank-weight", weight)
    names = query_rows(copied, "SELECT model FROM evaluation_names WHERE model LIKE '%weight%'")
    assert names == [{"model": f"blip+blip,top={TOP},weight=0.0"}]


def test_model_list_has_the_reranked_evaluations_of_a_model(copied: Path, cli: Run, cli_json: RunJson) -> None:
    models = {row["name"]: row for row in cli_json("model", "list", "--split", SPLIT)["models"]}
    assert [row["model"] for row in models["blip"]["evaluations"]] == ["blip", f"blip+blip,top={TOP}"]
    assert f"blip+blip,top={TOP}" in cli("model", "list", "--split", SPLIT).stdout
    assert copied.is_dir()


def test_evaluations_by_a_removed_reranker_are_reported(copied: Path, cli: Run) -> None:
    cli("eval", "--model", "demo", "--split", SPLIT)
    cli("rerank", "--model", "blip", "--split", SPLIT, "--first", "demo", "--top", 2)
    cli("eval", "--model", "demo", "--split", SPLIT, "--rerank", "blip", "--top", 2)
    assert " scores of its matching head" in cli("model", "remove", "blip", "--yes").stdout
    words = ["report", "--split", SPLIT, "--format", "md", "--model", "demo", "--model"]
    assert "demo+blip,top=2" in cli(*words, "demo+blip,top=2").stdout
    assert "unknown model 'demo+blip,top=3'" in cli(*words, "demo+blip,top=3", code=1).stderr
    assert copied.is_dir()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rerank", "--model", "demo", "--split", SPLIT], "demo is of the family clip and has no matching head"),
        (["rerank", "--model", "blap", "--split", SPLIT], "unknown model 'blap' (did you mean 'blip'?)"),
        (["rerank", "--model", "blip", "--split", "coco/val"], "unknown split 'coco/val'"),
        (
            ["rerank", "--model", "blip", "--split", SPLIT, "--first", "pretrained"],
            "pretrained has no vectors yet: run 'clipstore embed --model pretrained --split coco/val2017'",
        ),
        (["rerank", "--model", "blip", "--split", SPLIT, "--protocol", "coco-1k"], "coco-1k needs 5 folds"),
        (
            ["eval", "--model", "blip", "--split", SPLIT, "--rerank", "blip"],
            "blip has no scores, or has changed since: run 'clipstore rerank --model blip --split coco/val2017' first",
        ),
        (
            ["eval", "--model", "demo", "--split", SPLIT, "--rerank", "blip", "--top", 7, "--captions", "first5"],
            "'clipstore rerank --model blip --split coco/val2017 --first demo --top 7 --captions first5'",
        ),
        (["eval", "--model", "blip", "--split", SPLIT, "--rerank", "demo"], "demo is of the family clip"),
        (["eval", "--model", "blip", "--split", SPLIT, "--top", 7], "name it with --rerank"),
        (["rerank", "--model", "blip", "--split", SPLIT, "--protocol", "hard-negatives"], "has no candidates to score"),
        (["eval", "--split", SPLIT, "--rerank", "blip", "--protocol", "hard-negatives"], "omit --rerank"),
        (["eval", "--split", SPLIT, "--rerank", "blip", "--rerank-weight", -1], "a finite weight of at least 0"),
        (["eval", "--split", SPLIT, "--rerank", "blip", "--rerank-weight", "nan"], "a finite weight of at least 0"),
        (["eval", "--split", SPLIT, "--rerank", "blip", "--top", 10**20], f"cannot rerank {10**20} candidates"),
        (["rerank", "--model", "blip", "--split", SPLIT, "--top", 10**20], f"cannot rerank {10**20} candidates"),
    ],
)
def test_what_cannot_be_reranked_names_the_remedy(fresh: Path, cli: Run, words: list[object], message: str) -> None:
    assert message in cli(*words, code=1).stderr
    assert not list((fresh / "scores").glob("*/*"))


def test_a_missing_image_file_is_named(embedded: Path, cli: Run, store: Path, tmp_path: Path) -> None:
    """The first stage is imported: it needs no image files. The matching head does."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (40, 30), (number * 90, 50, 60)).save(root / "images" / f"{number}.png")
    table = root / "t.csv"
    table.write_text("image_path,caption\n" + "".join(f"images/{n}.png,a dog {n}\n" for n in range(2)))
    cli("ingest", "csv", table, "--name", "t")
    cli("model", "add", "blip", "--base", embedded / "blip")
    ids = [
        [row["source_id"] for row in query_rows(store, f"SELECT source_id FROM {kind}")]
        for kind in ("images", "captions")
    ]
    import_vectors(store, "m", "t/all", *(dict(zip(side, np.eye(2), strict=True)) for side in ids))
    (root / "images" / "1.png").unlink()
    message = cli("rerank", "--model", "blip", "--split", "t/all", "--first", "m", code=1).stderr
    assert "1 image files cannot be read, for example" in message
    assert "the matching head needs the images" in message
    Image.new("RGB", (40, 30)).save(root / "images" / "1.png")
    assert "4 pairs" in cli("rerank", "--model", "blip", "--split", "t/all", "--first", "m").stdout
    cli("eval", "--model", "m", "--split", "t/all", "--rerank", "blip")


def test_a_probe_guards_the_fingerprint(copied: Path, cli: Run) -> None:
    """Other libraries or devices that would give other scores under the same fingerprint are refused."""
    change = "SET vector = list_transform(vector, lambda x, i: CASE WHEN i % 2 = 0 THEN -x ELSE x END)"
    with duckdb.connect(str(copied / "catalog.duckdb")) as connection:
        connection.execute(f"UPDATE probes {change} WHERE fingerprint IN (SELECT fingerprint FROM matching_heads)")
    message = cli("rerank", "--model", "blip", "--split", SPLIT, "--top", 30, code=1).stderr
    assert "blip: the states of the matching head differ from those stored under its fingerprint" in message


def test_a_changed_model_needs_new_scores(embedded: Path, copied: Path, cli: Run, tmp_path: Path) -> None:
    message = "blip has no scores, or has changed since"
    folder = embedded / "blip"
    kept = shutil.copytree(folder, tmp_path / "kept")
    try:
        write_random_blip(folder, seed=1)
        assert message in cli("eval", "--model", "demo", "--split", SPLIT, "--rerank", "blip", code=1).stderr
    finally:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
    cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", TOP)  # copied back: hashed again, and unchanged


def test_more_candidates_than_the_gallery_are_all_of_it(copied: Path, cli: Run) -> None:
    printed = cli("rerank", "--model", "blip", "--split", SPLIT, "--top", 100_000).stdout
    assert "100,000 candidates are every image and every caption of the gallery" in printed
    printed = cli("eval", "--split", SPLIT, "--rerank", "blip", "--top", 100_000).stdout
    assert "100,000 candidates are every image and every caption of the gallery" in printed
