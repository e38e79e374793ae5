"""`clipstore train` and `clipstore run`: from a job to a model in the store, interruptions and bad input included."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Trained, metrics_csv, write_job
from numpy.typing import NDArray
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel

import clipstore
from clipstore.demo import scenes as drawn

Run = Callable[..., Any]

BUNDLED = Path(drawn.__file__).parent / "model"


def vectors(store: Path, model: str, kind: str, split: str = "t/val") -> NDArray[Any]:
    return clipstore.open(store).vectors(model, split, kind)[1]


# ---- from start to end ----


@pytest.mark.parametrize("heads", [pytest.param(False, marks=pytest.mark.full), True])
def test_from_a_job_to_a_model_in_the_store(heads: bool, workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    write_job("tuned", f"heads = {str(heads).lower()}")
    before = {kind: vectors(store, "demo", kind) for kind in ("images", "captions")}
    trained = cli_json("train", "--model", "tuned")
    assert (trained["images"], trained["captions"], trained["resumed"]) == (18, 90, None)
    assert [epoch["epoch"] for epoch in trained["history"]] == [0, 1, 2]
    assert trained["history"][2]["steps"] == 6  # 90 captions in batches of 16
    adapter = Path(trained["adapter"])
    assert {file.name for file in adapter.parent.iterdir()} == {"best", "last", "metrics.csv"}

    summary = {row["tower"]: row for row in cli_json("embed", "--model", "tuned", "--split", "t/val")["embedded"]}
    assert summary["text"]["done"] > 0
    images = summary["image"]
    if heads:
        assert images["done"] == 6
        assert images["clock"]["decode"] == 0  # one matrix product on stored features
    else:
        assert (images["planned"], images["reused"]) == (0, 6)
    # The validation metrics of the best epoch are those of the model's evaluation.
    evaluation = cli_json("eval", "--model", "tuned", "--split", "t/val")["evaluations"][0]
    best = next(epoch for epoch in trained["history"] if epoch["epoch"] == trained["best"]["epoch"])
    assert evaluation["metrics"] == pytest.approx(best["metrics"], abs=1e-6)
    base = cli_json("eval", "--model", "demo", "--split", "t/val")["evaluations"][0]
    assert base["metrics"] == pytest.approx(trained["history"][0]["metrics"], abs=1e-6)
    # The base is unchanged, and the new model differs.
    for kind, values in before.items():
        assert np.array_equal(vectors(store, "demo", kind), values)
    assert not np.allclose(vectors(store, "tuned", "captions"), before["captions"])
    assert np.array_equal(vectors(store, "tuned", "images"), before["images"]) is not heads


def test_metrics_csv_has_a_line_per_epoch(trained: Trained) -> None:
    history = trained.summary["history"]
    rows = metrics_csv(trained.store, "tuned")
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for row, epoch in zip(rows, history, strict=True):
        assert float(row["text_retrieval_recall@1"]) == epoch["metrics"]["text_retrieval_recall@1"]
        assert float(row["image_retrieval_mrr"]) == epoch["metrics"]["image_retrieval_mrr"]
    assert rows[0]["loss"] == ""
    assert float(rows[2]["loss"]) == history[2]["loss"]


@pytest.mark.full
def test_training_lowers_the_loss(workspace: Path, cli_json: Run) -> None:
    write_job("tuned", "epochs = 5\nlearning_rate = 5e-3\nheads = true")
    losses = [epoch["loss"] for epoch in cli_json("train", "--model", "tuned")["history"][1:]]
    assert losses[-1] < losses[0] - 0.1


def test_the_table_reports_the_training(workspace: Path, cli: Run) -> None:
    write_job("tuned")
    result = cli("train", "--model", "tuned")
    for words in ("epoch", "18 images", "90 captions", "fp32", "adapters/tuned/best", "clipstore embed --model tuned"):
        assert words in result.stdout
    assert "tuned: epoch 1: loss" in result.stderr


def test_run_trains_embeds_and_evaluates(workspace: Path, cli: Run, cli_json: Run) -> None:
    file = write_job("tuned", rest='[eval]\nsplits = ["t/val", "t/train"]\n')
    result = cli_json("run", file)
    evaluations = result["evaluations"]
    assert result["trained"]["model"] == "tuned"
    assert [(row["model"], row["split"]) for row in evaluations] == [("tuned", "t/val"), ("tuned", "t/train")]
    seen = [row["measured_on"]["seen_images"] for row in evaluations]
    assert seen == [0, 18]
    repeated = cli_json("run", file)
    assert repeated["trained"]["resumed"] == [3, 0]
    for first, second in zip(evaluations, repeated["evaluations"], strict=True):
        assert second["metrics"] == pytest.approx(first["metrics"], abs=1e-12)


def test_run_checks_its_splits_before_it_trains(workspace: Path, store: Path, cli: Run) -> None:
    file = write_job("tuned", rest='[eval]\nsplits = ["t/val", "t/vall"]\n')
    assert "did you mean 't/val'" in cli("run", file, code=1).stderr
    assert not (store / "adapters").exists()


def test_run_of_a_job_without_a_training(workspace: Path, cli: Run, cli_json: Run) -> None:
    Path("plain.toml").write_text('[model]\nbase = "bundled:demo"\n[eval]\nsplits = ["t/val"]\n')
    result = cli_json("run", "plain.toml")
    assert result["trained"] is None
    assert result["evaluations"][0]["model"] == "plain"
    Path("bare.toml").write_text('[model]\nbase = "bundled:demo"\n')
    assert "[eval]" in cli("run", "bare.toml", code=1).stderr
    Path("full.toml").write_text('[model]\nbase = "bundled:demo"\n[eval]\nsplits = ["t/val"]\n')
    assert "different jobs with the same name" in cli("run", "full.toml", code=1).stderr
    assert "no table [train]" in cli("train", "--model", "demo", code=1).stderr
    assert "did you mean 'demo-full'" in cli("train", "--model", "demo-ful", code=1).stderr


def test_an_untrained_model_is_refused_with_the_command(workspace: Path, cli: Run, cli_json: Run) -> None:
    write_job("tuned")
    for words in (["embed", "--model", "tuned"], ["eval", "--model", "tuned", "--split", "t/val"]):
        assert "run 'clipstore train --model tuned' first" in cli(*words, code=1).stderr
    rows = {row["name"]: row["problem"] for row in cli_json("model", "list")["models"]}
    assert rows["tuned"] == "not trained yet"
    cli("train", "--model", "tuned")
    rows = {row["name"]: row["problem"] for row in cli_json("model", "list")["models"]}
    assert rows["tuned"] is None


# ---- results of a training ----


def test_peft_opens_the_adapter_and_gives_the_same_vectors(trained: Trained, store: Path, cli: Run, sql: Run) -> None:
    cli("embed", "--model", "tuned", "--split", "t/val", "--precision", "fp32")
    base = CLIPModel.from_pretrained(BUNDLED).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
        model = PeftModel.from_pretrained(base, store / "adapters" / "tuned" / "best")
    assert_texts(model.base_model.model, store, sql)


@pytest.mark.full
def test_an_exported_model_opens_anywhere(
    workspace: Path, store: Path, cli: Run, cli_json: Run, sql: Run, tmp_path: Path
) -> None:
    write_job("tuned", "heads = true\ntemperature = 'trained'")
    cli("train", "--model", "tuned")
    cli("embed", "--model", "tuned", "--split", "t/val", "--precision", "fp32")
    cli("export", "model", "tuned", tmp_path / "out", "--merged")
    merged = CLIPModel.from_pretrained(tmp_path / "out")
    assert_texts(merged, store, sql)
    assert merged.logit_scale.item() != CLIPModel.from_pretrained(BUNDLED).logit_scale.item()
    # Added to the store again, it has the same vectors.
    cli("model", "add", "back", "--base", tmp_path / "out")
    cli("embed", "--model", "back", "--split", "t/val", "--precision", "fp32")
    for kind in ("images", "captions"):
        assert np.allclose(vectors(store, "back", kind), vectors(store, "tuned", kind), atol=1e-5)
    assert "exists already" in cli("export", "model", "tuned", tmp_path / "out", "--merged", code=1).stderr
    assert "no adapter" in cli("export", "model", "demo", tmp_path / "other", code=1).stderr
    cli("export", "model", "tuned", tmp_path / "adapter")
    cli("model", "add", "carried", "--base", "bundled:demo", "--adapter", tmp_path / "adapter")
    cli("embed", "--model", "carried", "--split", "t/val")
    assert np.array_equal(vectors(store, "carried", "captions"), vectors(store, "tuned", "captions"))
    # The adapter carries its training images.
    cli("embed", "--model", "carried", "--split", "t/train")
    seen = {split: cli_json("eval", "--model", "carried", "--split", split) for split in ("t/train", "t/val")}
    counts = {split: result["evaluations"][0]["measured_on"]["seen_images"] for split, result in seen.items()}
    assert counts == {"t/train": 18, "t/val": 0}


def assert_texts(clip: Any, store: Path, sql: Run) -> None:
    """A transformers model's vectors of t/val's captions are those that the store has of `tuned`."""
    ids, stored = clipstore.open(store).vectors("tuned", "t/val", "captions", ids="catalog")
    texts = {row["caption_id"]: row["text"] for row in sql("SELECT caption_id, text FROM captions")}
    captions = [texts[caption_id] for caption_id in ids.tolist()]
    tokens = AutoTokenizer.from_pretrained(BUNDLED)(captions, padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = clip.eval().get_text_features(**tokens)
    expected = getattr(output, "pooler_output", output)
    cosine = torch.nn.functional.cosine_similarity(expected, torch.from_numpy(stored.copy()))
    assert cosine.min() > 0.99999


def test_training_json_records_the_training(trained: Trained, store: Path, sql: Run) -> None:
    record = json.loads((store / "adapters" / "tuned" / "best" / "training.json").read_text())
    assert (record["model"], record["base"], record["training"]["seed"]) == ("tuned", "bundled:demo", 3)
    assert {"torch", "peft", "clipstore"} <= record["software"].keys()
    images = sql(
        "SELECT content FROM images JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE name = 't/train' ORDER BY content"
    )
    joined = "\n".join(row["content"] for row in images)
    assert record["training_images"] == {"count": 18, "digest": hashlib.sha256(joined.encode()).hexdigest()}
    assert sql("SELECT count(*) AS n FROM training_images JOIN models USING (model_id) WHERE name = 'tuned'") == [
        {"n": 18}
    ]


@pytest.mark.full
def test_a_restarted_training_deletes_evaluations(trained: Trained, cli: Run, cli_json: Run, sql: Run) -> None:
    file = write_job("tuned", rest='[eval]\nsplits = ["t/val"]\n')
    cli("run", file)
    count = "SELECT count(*) AS n FROM evaluations JOIN models USING (model_id) WHERE name = 'tuned'"
    assert sql(count) == [{"n": 1}]
    assert cli_json("train", "--model", "tuned")["resumed"] == [3, 0]  # nothing left to do
    assert sql(count) == [{"n": 1}]
    assert cli_json("train", "--model", "tuned", "--restart")["resumed"] is None
    assert sql(count) == [{"n": 0}]


@pytest.mark.full
def test_another_prompt_has_its_own_base(workspace: Path, store: Path, cli: Run, sql: Run) -> None:
    file = write_job("tuned")
    file.write_text(file.read_text().replace("[train]", 'prompt = "drawn: {}"\n[train]', 1))
    cli("train", "--model", "tuned")
    assert sql("SELECT name FROM models ORDER BY name") == [{"name": name} for name in ("demo", "tuned", "tuned.base")]


# ---- variants ----


def test_vision_is_trained_on_image_files(workspace: Path, store: Path, cli_json: Run) -> None:
    write_job("tuned", "epochs = 1", lora='towers = ["text", "vision"]')
    trained = cli_json("train", "--model", "tuned")
    names = load_file(Path(trained["adapter"]) / "adapter_model.safetensors").keys()
    assert {name.split(".")[2] for name in names} == {"text_model", "vision_model"}
    assert {file.name for file in Path(trained["adapter"]).iterdir()} == {
        "SHA256SUMS",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
        "training_images.txt",
    }
    summary = {row["tower"]: row for row in cli_json("embed", "--model", "tuned", "--split", "t/val")["embedded"]}
    assert summary["image"]["done"] == 6
    assert summary["image"]["clock"]["decode"] > 0
    evaluation = cli_json("eval", "--model", "tuned", "--split", "t/val")["evaluations"][0]
    assert evaluation["metrics"] == pytest.approx(trained["best"]["metrics"], abs=1e-6)


@pytest.mark.parametrize("refresh", [0, pytest.param(1, marks=pytest.mark.full)])
def test_hard_negatives_are_incorrect_hits(refresh: int, workspace: Path, store: Path, cli_json: Run, sql: Run) -> None:
    write_job("tuned", f"hard_negatives = 2\nrefresh_negatives = {refresh}\nepochs = 3")
    cli_json("train", "--model", "tuned")
    state = torch.load(store / "adapters" / "tuned" / "last" / "state.pt", weights_only=True)
    negatives = state["wrong"].numpy()
    assert negatives.shape[0] == 90
    rows = sql(
        "SELECT captions.image_id, text FROM captions JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE name = 't/train' ORDER BY split_images.position, captions.position"
    )
    texts: dict[int, set[str]] = {}
    for row in rows:
        texts.setdefault(row["image_id"], set()).add(row["text"])
    for row, numbers in zip(rows, negatives.tolist(), strict=True):
        captions = [rows[number] for number in numbers if number >= 0]
        assert captions
        for caption in captions:
            assert caption["image_id"] != row["image_id"]
            assert caption["text"] not in texts[row["image_id"]]
    if not refresh:  # the base's hits, best first
        hits = sql(
            "SELECT query_id, item_id, text FROM hits JOIN evaluations USING (evaluation_id) "
            "JOIN models USING (model_id) JOIN splits USING (split_id) JOIN captions ON caption_id = item_id "
            "WHERE models.name = 'demo' AND splits.name = 't/train' AND direction = 'image_to_text' "
            "ORDER BY query_id, hits.position"
        )
        image = rows[0]["image_id"]
        expected = [hit["text"] for hit in hits if hit["query_id"] == image and hit["text"] not in texts[image]]
        assert [rows[number]["text"] for number in negatives[0].tolist() if number >= 0] == expected


# ---- the demo ----


@pytest.mark.full
def test_a_small_demo(cli: Run, tmp_path: Path) -> None:
    result = cli("demo", tmp_path / "demo", "--images", 20)
    for words in (
        "clipstore train --model demo-subset",
        "clipstore train --model demo-full",
        "demo-full against demo:",
        "no known overlap with the training images",
        "clipstore run jobs/full.toml",
    ):
        assert words in result.stdout
    repeated = json.loads(cli("demo", tmp_path / "demo", "--images", 20, "--json").stdout)  # nothing left to do
    assert [row["model"] for row in repeated["evaluations"]] == ["demo", "demo-subset", "demo-full"]
    assert all(row["resumed"] for row in repeated["trained"])
    assert not any(row["done"] for row in repeated["embedded"])
