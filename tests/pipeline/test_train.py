"""`clipstore train`: from a job to a model in the store, whatever comes between."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_folder import build_lora
from helpers import Trained, command_line, environment, metrics_csv, weight_digests, write_job
from numpy.typing import NDArray
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

import clipstore
from clipstore.demo import scenes as drawn
from clipstore.demo.scenes import draw_dataset
from clipstore.encoders.images import decode_pixels
from clipstore.encoders.lora import LoraClip
from clipstore.records import Lora, Model, Training
from clipstore.training.gradients import Batch, backward

Run = Callable[..., Any]

BUNDLED = Path(drawn.__file__).parent / "model"


def vectors(store: Path, model: str, what: str, split: str = "t/val") -> NDArray[Any]:
    return clipstore.open(store).vectors(model, split, what)[1]


# ---- the whole way ----


@pytest.mark.parametrize("heads", [False, True])
def test_from_a_job_to_a_model_in_the_store(heads: bool, workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    write_job("mine", f"heads = {str(heads).lower()}")
    before = {what: vectors(store, "demo", what) for what in ("images", "captions")}
    told = cli_json("train", "--model", "mine")
    assert (told["images"], told["captions"], told["resumed"]) == (18, 90, None)
    assert [epoch["epoch"] for epoch in told["history"]] == [0, 1, 2]
    assert told["history"][2]["steps"] == 6  # 90 captions in batches of 16
    adapter = Path(told["adapter"])
    assert {file.name for file in adapter.parent.iterdir()} == {"best", "last", "metrics.csv"}

    summary = {row["tower"]: row for row in cli_json("embed", "--model", "mine", "--split", "t/val")["embedded"]}
    assert summary["text"]["done"] > 0
    images = summary["image"]
    if heads:
        assert images["done"] == 6
        assert images["clock"]["decode"] == 0  # one product on stored features
    else:
        assert (images["planned"], images["reused"]) == (0, 6)
    # What validation said of the best epoch is what the store says of the model.
    measured = cli_json("eval", "--model", "mine", "--split", "t/val")["evaluations"][0]
    best = next(epoch for epoch in told["history"] if epoch["epoch"] == told["best"]["epoch"])
    assert measured["metrics"] == pytest.approx(best["metrics"], abs=1e-6)
    base = cli_json("eval", "--model", "demo", "--split", "t/val")["evaluations"][0]
    assert base["metrics"] == pytest.approx(told["history"][0]["metrics"], abs=1e-6)
    # The base is as it was, and the new model is another.
    for what, values in before.items():
        assert np.array_equal(vectors(store, "demo", what), values)
    assert not np.allclose(vectors(store, "mine", "captions"), before["captions"])
    assert np.array_equal(vectors(store, "mine", "images"), before["images"]) is not heads


def test_metrics_csv_has_a_line_an_epoch(trained: Trained) -> None:
    told = trained.summary
    rows = metrics_csv(trained.store, "mine")
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2]
    for row, epoch in zip(rows, told["history"], strict=True):
        assert float(row["text_retrieval_recall@1"]) == epoch["metrics"]["text_retrieval_recall@1"]
        assert float(row["image_retrieval_mrr"]) == epoch["metrics"]["image_retrieval_mrr"]
    assert rows[0]["loss"] == ""
    assert float(rows[2]["loss"]) == told["history"][2]["loss"]


def test_training_lowers_the_loss(workspace: Path, cli_json: Run) -> None:
    write_job("mine", "epochs = 5\nlearning_rate = 5e-3\nheads = true")
    losses = [epoch["loss"] for epoch in cli_json("train", "--model", "mine")["history"][1:]]
    assert losses[-1] < losses[0] - 0.1


def test_the_table_says_what_happened(workspace: Path, cli: Run) -> None:
    write_job("mine")
    result = cli("train", "--model", "mine")
    for words in ("epoch", "18 images", "90 captions", "fp32", "adapters/mine/best", "clipstore embed --model mine"):
        assert words in result.stdout
    assert "mine: epoch 1: loss" in result.stderr


def test_run_trains_embeds_and_evaluates(workspace: Path, cli: Run, cli_json: Run) -> None:
    file = write_job("mine", rest='[eval]\nsplits = ["t/val", "t/train"]\n')
    told = cli_json("run", file)
    assert told["trained"]["model"] == "mine"
    assert [(one["model"], one["split"]) for one in told["evaluations"]] == [("mine", "t/val"), ("mine", "t/train")]
    seen = [one["measured_on"]["seen_images"] for one in told["evaluations"]]
    assert seen == [0, 18]
    again = cli_json("run", file)
    assert again["trained"]["resumed"] == [3, 0]
    for one, other in zip(again["evaluations"], told["evaluations"], strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], abs=1e-12)


def test_run_looks_at_its_splits_before_it_trains(workspace: Path, store: Path, cli: Run) -> None:
    file = write_job("mine", rest='[eval]\nsplits = ["t/val", "t/vall"]\n')
    assert "did you mean 't/val'" in cli("run", file, code=1).stderr
    assert not (store / "adapters").exists()


def test_run_of_a_job_that_trains_nothing(workspace: Path, cli: Run, cli_json: Run) -> None:
    Path("plain.toml").write_text('[model]\nbase = "bundled:demo"\n[eval]\nsplits = ["t/val"]\n')
    told = cli_json("run", "plain.toml")
    assert told["trained"] is None
    assert told["evaluations"][0]["model"] == "plain"
    Path("bare.toml").write_text('[model]\nbase = "bundled:demo"\n')
    assert "[eval]" in cli("run", "bare.toml", code=1).stderr
    Path("full.toml").write_text('[model]\nbase = "bundled:demo"\n[eval]\nsplits = ["t/val"]\n')
    assert "two jobs of one name" in cli("run", "full.toml", code=1).stderr
    assert "no table [train]" in cli("train", "--model", "demo", code=1).stderr
    assert "did you mean 'demo-full'" in cli("train", "--model", "demo-ful", code=1).stderr


def test_a_model_that_waits_for_its_training_says_so(workspace: Path, cli: Run, cli_json: Run) -> None:
    write_job("mine")
    for words in (["embed", "--model", "mine"], ["eval", "--model", "mine", "--split", "t/val"]):
        assert "run 'clipstore train --model mine' first" in cli(*words, code=1).stderr
    rows = {row["name"]: row["problem"] for row in cli_json("model", "list")["models"]}
    assert rows["mine"] == "not trained yet"
    cli("train", "--model", "mine")
    rows = {row["name"]: row["problem"] for row in cli_json("model", "list")["models"]}
    assert rows["mine"] is None


# ---- what training leaves ----


def test_peft_opens_the_adapter_and_gives_the_same_vectors(trained: Trained, store: Path, cli: Run, sql: Run) -> None:
    cli("embed", "--model", "mine", "--split", "t/val", "--precision", "fp32")
    base = CLIPModel.from_pretrained(BUNDLED).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT's own use of transformers
        tuned = PeftModel.from_pretrained(base, store / "adapters" / "mine" / "best")
    assert_texts(tuned.base_model.model, store, sql)


def test_an_exported_model_opens_anywhere(
    workspace: Path, store: Path, cli: Run, cli_json: Run, sql: Run, tmp_path: Path
) -> None:
    write_job("mine", "heads = true\ntemperature = 'trained'")
    cli("train", "--model", "mine")
    cli("embed", "--model", "mine", "--split", "t/val", "--precision", "fp32")
    cli("export", "model", "mine", tmp_path / "out", "--merged")
    plain = CLIPModel.from_pretrained(tmp_path / "out")
    assert_texts(plain, store, sql)
    assert plain.logit_scale.item() != CLIPModel.from_pretrained(BUNDLED).logit_scale.item()
    # The store reads it back as a model whose vectors are the same.
    cli("model", "add", "back", "--base", tmp_path / "out")
    cli("embed", "--model", "back", "--split", "t/val", "--precision", "fp32")
    for what in ("images", "captions"):
        assert np.allclose(vectors(store, "back", what), vectors(store, "mine", what), atol=1e-5)
    assert "exists already" in cli("export", "model", "mine", tmp_path / "out", "--merged", code=1).stderr
    assert "no adapter" in cli("export", "model", "demo", tmp_path / "other", code=1).stderr
    cli("export", "model", "mine", tmp_path / "adapter")
    cli("model", "add", "carried", "--base", "bundled:demo", "--adapter", tmp_path / "adapter")
    cli("embed", "--model", "carried", "--split", "t/val")
    assert np.array_equal(vectors(store, "carried", "captions"), vectors(store, "mine", "captions"))
    # What it was trained on came with it.
    cli("embed", "--model", "carried", "--split", "t/train")
    seen = {split: cli_json("eval", "--model", "carried", "--split", split) for split in ("t/train", "t/val")}
    assert {split: one["evaluations"][0]["measured_on"]["seen_images"] for split, one in seen.items()} == {
        "t/train": 18,
        "t/val": 0,
    }


def assert_texts(clip: Any, store: Path, sql: Run) -> None:
    """A transformers model gives the vectors that the store has of `mine`, for t/val's captions."""
    ids, ours = clipstore.open(store).vectors("mine", "t/val", "captions", ids="catalog")
    texts = {row["caption_id"]: row["text"] for row in sql("SELECT caption_id, text FROM captions")}
    tokens = AutoTokenizer.from_pretrained(BUNDLED)(
        [texts[one] for one in ids.tolist()], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        theirs = clip.eval().get_text_features(**tokens)
    theirs = getattr(theirs, "pooler_output", theirs)
    cosine = torch.nn.functional.cosine_similarity(theirs, torch.from_numpy(ours.copy()))
    assert cosine.min() > 0.99999


def test_training_json_says_what_it_was_trained_on(trained: Trained, store: Path, sql: Run) -> None:
    told = json.loads((store / "adapters" / "mine" / "best" / "training.json").read_text())
    assert (told["model"], told["base"], told["training"]["seed"]) == ("mine", "bundled:demo", 3)
    assert {"torch", "peft", "clipstore"} <= told["software"].keys()
    photos = sql(
        "SELECT content FROM images JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE name = 't/train' ORDER BY content"
    )
    joined = "\n".join(row["content"] for row in photos)
    assert told["training_images"] == {"count": 18, "digest": hashlib.sha256(joined.encode()).hexdigest()}
    assert sql("SELECT count(*) AS n FROM training_images JOIN models USING (model_id) WHERE name = 'mine'") == [
        {"n": 18}
    ]


def test_training_again_from_the_start_forgets_what_was_measured(
    trained: Trained, cli: Run, cli_json: Run, sql: Run
) -> None:
    file = write_job("mine", rest='[eval]\nsplits = ["t/val"]\n')
    cli("run", file)
    count = "SELECT count(*) AS n FROM evaluations JOIN models USING (model_id) WHERE name = 'mine'"
    assert sql(count) == [{"n": 1}]
    assert cli_json("train", "--model", "mine")["resumed"] == [3, 0]  # nothing left to do
    assert sql(count) == [{"n": 1}]
    assert cli_json("train", "--model", "mine", "--restart")["resumed"] is None
    assert sql(count) == [{"n": 0}]


def test_another_prompt_has_a_base_of_its_own(workspace: Path, store: Path, cli: Run, sql: Run) -> None:
    file = write_job("mine")
    file.write_text(file.read_text().replace("[train]", 'prompt = "drawn: {}"\n[train]', 1))
    cli("train", "--model", "mine")
    assert sql("SELECT name FROM models ORDER BY name") == [{"name": name} for name in ("demo", "mine", "mine.base")]


# ---- variants ----


def test_vision_learns_from_the_photos(workspace: Path, store: Path, cli_json: Run) -> None:
    write_job("mine", "epochs = 1", lora='towers = ["text", "vision"]')
    told = cli_json("train", "--model", "mine")
    names = load_file(Path(told["adapter"]) / "adapter_model.safetensors").keys()
    assert {name.split(".")[2] for name in names} == {"text_model", "vision_model"}
    summary = {row["tower"]: row for row in cli_json("embed", "--model", "mine", "--split", "t/val")["embedded"]}
    assert summary["image"]["done"] == 6
    assert summary["image"]["clock"]["decode"] > 0
    measured = cli_json("eval", "--model", "mine", "--split", "t/val")["evaluations"][0]
    assert measured["metrics"] == pytest.approx(told["best"]["metrics"], abs=1e-6)


@pytest.mark.parametrize("refresh", [0, 1])
def test_hard_negatives_are_wrong_hits_and_never_right_ones(
    refresh: int, workspace: Path, store: Path, cli_json: Run, sql: Run
) -> None:
    write_job("mine", f"hard_negatives = 2\nrefresh_negatives = {refresh}\nepochs = 3")
    cli_json("train", "--model", "mine")
    state = torch.load(store / "adapters" / "mine" / "last" / "state.pt", weights_only=True)
    wrong = state["wrong"].numpy()
    assert wrong.shape[0] == 90
    rows = sql(
        "SELECT captions.image_id, text FROM captions JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE name = 't/train' ORDER BY split_images.position, captions.position"
    )
    own = {row["image_id"]: {other["text"] for other in rows if other["image_id"] == row["image_id"]} for row in rows}
    for row, places in zip(rows, wrong.tolist(), strict=True):
        negatives = [rows[place] for place in places if place >= 0]
        assert negatives
        assert not [
            one for one in negatives if one["image_id"] == row["image_id"] or one["text"] in own[row["image_id"]]
        ]
    if not refresh:  # the base's own hits, best first
        hits = sql(
            "SELECT query_id, item_id, text FROM hits JOIN evaluations USING (evaluation_id) "
            "JOIN models USING (model_id) JOIN splits USING (split_id) JOIN captions ON caption_id = item_id "
            "WHERE models.name = 'demo' AND splits.name = 't/train' AND direction = 'image_to_text' "
            "ORDER BY query_id, hits.position"
        )
        image = rows[0]["image_id"]
        expected = [hit["text"] for hit in hits if hit["query_id"] == image and hit["text"] not in own[image]]
        assert [rows[place]["text"] for place in wrong[0].tolist() if place >= 0] == expected


# ---- interrupted ----


def test_killed_in_epoch_2_it_goes_on_to_the_same_adapter(
    workspace: Path, store: Path, training_store: Path, tmp_path: Path
) -> None:
    write_job("mine", "epochs = 3\nheads = true\ntemperature = 'trained'\nhard_negatives = 1\nrefresh_negatives = 1")
    whole = tmp_path / "whole"
    shutil.copytree(training_store, whole)
    subprocess.run(command_line("train", "--model", "mine"), env=environment(whole), check=True, capture_output=True)
    process = subprocess.Popen(
        command_line("train", "--model", "mine"), env=environment(store), stderr=subprocess.DEVNULL
    )
    told = store / "adapters" / "mine" / "last" / "training.json"
    deadline = time.monotonic() + 120
    while not in_epoch_2(told):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    assert process.wait() == -signal.SIGKILL
    answer = subprocess.run(
        command_line("train", "--model", "mine", "--json"),
        env=environment(store),
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(answer.stdout)["resumed"][0] == 2
    for name in ("best", "last"):
        assert weight_digests(store / "adapters" / "mine" / name) == weight_digests(whole / "adapters" / "mine" / name)
    assert metrics_csv(store, "mine") == metrics_csv(whole, "mine")


def in_epoch_2(file: Path) -> bool:
    """Whether a checkpoint within epoch 2 is there; it may be on its way while one looks."""
    try:
        position = json.loads(file.read_text())["position"]
    except (OSError, ValueError):
        return False
    return bool(position["epoch"] == 2 and position["step"] > 0)


def test_a_job_that_changed_does_not_go_on_silently(trained: Trained, store: Path, cli: Run) -> None:
    kept = weight_digests(store / "adapters" / "mine" / "best")
    write_job("mine", "learning_rate = 1e-4")
    assert "other settings of [train]" in cli("train", "--model", "mine", code=1).stderr
    assert weight_digests(store / "adapters" / "mine" / "best") == kept
    cli("train", "--model", "mine", "--restart")
    assert weight_digests(store / "adapters" / "mine" / "best") != kept


def test_a_refused_training_leaves_what_the_store_knows_of_the_former(trained: Trained, cli: Run, sql: Run) -> None:
    known = "SELECT image_id FROM training_images JOIN models USING (model_id) WHERE name = 'mine' ORDER BY image_id"
    before = sql(known)
    write_job("mine", 'split = "t/val"\nvalidation = "t/train"')
    told = cli("train", "--model", "mine", code=1).stderr
    assert "other settings of [train]" in told
    assert "other photos" in told
    assert sql(known) == before


def test_a_checkpoint_of_another_base_is_refused(workspace: Path, store: Path, cli: Run, tmp_path: Path) -> None:
    base = Path(shutil.copytree(BUNDLED, tmp_path / "base"))
    write_job("mine", base=base)
    cli("train", "--model", "mine")
    cli("embed", "--model", "mine", "--split", "t/val")
    weights = CLIPModel.from_pretrained(base)
    with torch.no_grad():
        weights.text_projection.weight.add_(0.01)
    weights.half().save_pretrained(base)
    assert "another base" in cli("train", "--model", "mine", code=1).stderr
    assert "trained on another base" in cli("embed", "--model", "mine", "--split", "t/val", code=1).stderr


# ---- bad input ----


def test_validation_that_overlaps_training_is_refused_with_the_count(workspace: Path, cli: Run) -> None:
    write_job("mine", 'validation = "s/all"')
    assert "18 images of s/all are in t/train too" in cli("train", "--model", "mine", code=1).stderr


def test_the_same_photo_under_another_name_overlaps_too(workspace: Path, cli: Run, tmp_path: Path, sql: Run) -> None:
    path = sql(
        "SELECT path FROM images JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE splits.name = 't/train' LIMIT 1"
    )[0]["path"]
    other = tmp_path / "other"
    draw_dataset(other / "s", images=3, seed=8, split="v")
    shutil.copy(path, other / "twin.jpg")
    photos = [str(photo.relative_to(other)) for photo in other.rglob("*.jpg")]
    (other / "c.csv").write_text("image_path,caption\n" + "".join(f"{photo},a {n}\n" for n, photo in enumerate(photos)))
    cli("ingest", "csv", other / "c.csv", "--name", "o")
    write_job("mine", 'validation = "o/all"')
    assert "1 images of o/all are in t/train too" in cli("train", "--model", "mine", code=1).stderr


def test_a_split_of_one_image_is_refused(workspace: Path, cli: Run, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "one", images=1, seed=9, split="v")
    cli("ingest", "coco", tmp_path / "one", "--name", "o")
    write_job("mine", 'split = "o/v"')
    assert "o/v has 1 images with features" in cli("train", "--model", "mine", code=1).stderr
    write_job("other", 'validation = "o/v"')
    assert "o/v has 1 image:" in cli("train", "--model", "other", code=1).stderr


def test_captions_without_features_are_left_out_and_counted(
    workspace: Path, cli: Run, cli_json: Run, sql: Run, tmp_path: Path
) -> None:
    draw_dataset(tmp_path / "more", images=8, seed=9, split="v")
    photos = sorted((tmp_path / "more" / "v").glob("*.jpg"))
    photos[0].write_bytes(b"no photo")
    photos[1].unlink()
    cli("ingest", "coco", tmp_path / "more", "--name", "o")
    write_job("mine", 'split = "o/v"')
    told = cli_json("train", "--model", "mine")
    assert (told["images"], told["captions"]) == (6, 30)
    assert (told["left_out_images"], told["left_out_captions"]) == (2, 10)
    for photo in photos[2:]:
        photo.write_bytes(b"no photo")
    write_job("none", 'split = "o/v"')
    assert "0 images with features" in cli("train", "--model", "none", code=1).stderr


def test_a_learning_rate_that_gives_nan_stops_at_once(workspace: Path, store: Path, cli: Run) -> None:
    write_job("mine", "learning_rate = 1e30\nclip = 1e30\nheads = true\nwarmup = 0")
    told = cli("train", "--model", "mine", code=1).stderr.splitlines()[-1]
    assert "at step 2 of epoch 1" in told
    assert "lower learning_rate" in told
    assert "no epoch was complete yet" in told
    assert not (store / "adapters" / "mine" / "best").exists()


def test_a_late_nan_keeps_the_last_good_checkpoint(trained: Trained, store: Path, cli: Run) -> None:
    go_on(store, epochs=3, learning_rate=1e30)
    write_job("mine", "epochs = 3\nlearning_rate = 1e30")
    kept = {name: weight_digests(store / "adapters" / "mine" / name) for name in ("best", "last")}
    told = cli("train", "--model", "mine", code=1).stderr.splitlines()[-1]
    assert "of epoch 3" in told
    assert "the checkpoint of epoch 2 is kept" in told
    assert {name: weight_digests(store / "adapters" / "mine" / name) for name in ("best", "last")} == kept


def go_on(store: Path, **changed: object) -> None:
    """Let the checkpoints of `mine` be those of a job with other settings, so that there is something left to do."""
    for name in ("best", "last"):
        file = store / "adapters" / "mine" / name / "training.json"
        told = json.loads(file.read_text())
        file.write_text(json.dumps(told | {"training": told["training"] | changed}))


def test_an_unknown_module_is_refused_with_those_that_exist(workspace: Path, store: Path, cli: Run) -> None:
    write_job("mine", lora='modules = ["q_proj", "query"]')
    told = cli("train", "--model", "mine", code=1).stderr
    assert "'query'" in told
    assert "k_proj, out_proj, q_proj, v_proj" in told
    assert not (store / "adapters").exists()


def test_an_adapter_that_targets_nothing_that_exists_is_refused(workspace: Path, cli: Run, tmp_path: Path) -> None:
    adapter = build_lora(BUNDLED, tmp_path / "a", targets=["q_proj"])
    told = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(told | {"target_modules": ["query"]}))
    cli("model", "add", "odd", "--base", "bundled:demo", "--adapter", adapter)
    said = cli("embed", "--model", "odd", "--split", "t/val", code=1).stderr
    assert "query" in said
    assert "q_proj" in said


_FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from clipstore.cli import main
from clipstore.training import checkpoints
whole = checkpoints.replace_folder
def replace_folder(folder, fill):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    whole(folder, fill)
checkpoints.replace_folder = replace_folder
main(sys.argv[1:])
"""


def test_a_full_disk_leaves_the_old_checkpoint_as_it_was(trained: Trained, store: Path, cli: Run) -> None:
    go_on(store, epochs=3)
    write_job("mine", "epochs = 3")
    before = {file: file.read_bytes() for file in (store / "adapters" / "mine").rglob("*") if file.is_file()}
    words = [sys.executable, "-c", _FULL_DISK, "train", "--model", "mine"]
    answer = subprocess.run(words, env=environment(store), capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "cannot write the checkpoint" in answer.stderr
    assert "the one before is as it was" in answer.stderr
    after = {file: file.read_bytes() for file in (store / "adapters" / "mine").rglob("*") if file.is_file()}
    assert after == before
    cli("train", "--model", "mine")
    assert len(metrics_csv(store, "mine")) == 4


# ---- the demo ----


def test_the_demo_in_little(cli: Run, tmp_path: Path) -> None:
    result = cli("demo", tmp_path / "demo", "--images", 20)
    for words in (
        "clipstore train --model demo-subset",
        "clipstore train --model demo-full",
        "demo-full against demo:",
        "trained on none of these images",
        "clipstore run jobs/full.toml",
    ):
        assert words in result.stdout
    told = json.loads(cli("demo", tmp_path / "demo", "--images", 20, "--json").stdout)  # nothing left to do
    assert [one["model"] for one in told["evaluations"]] == ["demo", "demo-subset", "demo-full"]
    assert all(one["resumed"] for one in told["trained"])
    assert not any(one["done"] for one in told["embedded"])


# ---- in full size ----


def photos_and_captions(test_data: Path, count: int) -> tuple[list[Path], list[str]]:
    """Photos of coco-mini with one caption each."""
    photos, captions = [], []
    for split in ("train2017", "val2017"):
        told = json.loads((test_data / "coco-mini" / "annotations" / f"captions_{split}.json").read_text())
        first = {one["image_id"]: one["caption"] for one in reversed(told["annotations"])}
        photos += [test_data / "coco-mini" / split / image["file_name"] for image in told["images"]]
        captions += [first[image["id"]] for image in told["images"]]
    return photos[:count], captions[:count]


@pytest.mark.full
def test_a_step_takes_at_most_35_in_100_of_the_studys(full_clip: Path, test_data: Path) -> None:
    """The study's step decodes and encodes each photo, pads to the longest caption, and trains the same LoRA."""
    model = Model(name="m", family="clip", base=str(full_clip))
    training = Training(split="a/b", validation="a/c", lora=Lora(dropout=0.0))
    processor, tokenizer = CLIPImageProcessorPil.from_pretrained(full_clip), AutoTokenizer.from_pretrained(full_clip)
    study, ours = (LoraClip(model, training) for _ in range(2))
    clip = study._clip
    clip.set_attn_implementation("sdpa")  # transformers' default
    photos, captions = photos_and_captions(test_data, 128)
    decoded = np.stack([decode_pixels(photo.read_bytes(), ours.encoder.preprocessing) for photo in photos])
    features = np.concatenate([ours.encoder.image_features(decoded[start : start + 32]) for start in range(0, 128, 32)])
    ids = ours.encoder.tokenize(captions).ids
    optimizers = [torch.optim.AdamW(list(one.weights().values()), lr=1e-4) for one in (study, ours)]
    for one in (study, ours):
        one.train(on=True)

    def study_step(rows: list[int]) -> float:
        images = [Image.open(photos[row]).convert("RGB") for row in rows]
        text = tokenizer([captions[row] for row in rows], padding=True, return_tensors="pt")
        answer = clip(**text, pixel_values=processor(images, return_tensors="pt")["pixel_values"], return_loss=True)
        answer.loss.backward()
        return answer.loss.item()

    def our_step(rows: list[int]) -> float:
        batch = Batch(images=torch.from_numpy(features[rows]), ids=[ids[row] for row in rows], image=torch.tensor(rows))
        return backward(ours, batch, chunk=64, mask_siblings=False)

    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(8):
        rows = np.random.default_rng(number).choice(128, size=32, replace=False).tolist()
        losses = []
        for step, optimizer, taken in zip((study_step, our_step), optimizers, seconds, strict=True):
            began = time.perf_counter()
            optimizer.zero_grad()
            losses.append(step(rows))
            optimizer.step()
            taken.append(time.perf_counter() - began)
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    theirs, own = (float(np.median(taken[2:])) for taken in seconds)
    print(f"a step of the study {theirs:.2f} s, ours {own:.2f} s: {own / theirs:.3f}")  # pytest -rP shows it
    assert own <= 0.35 * theirs


_STEP = """
import json, sys
import numpy as np, torch
from pathlib import Path
from clipstore.encoders.lora import LoraClip
from clipstore.pipeline.evaluate.rank import peak_memory
from clipstore.records import Model, Training
from clipstore.training.gradients import Batch, backward
base, file, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
captions = [one["caption"] for one in json.loads(Path(file).read_text())["annotations"]][:size]
learner = LoraClip(Model(name="m", family="clip", base=base), Training(split="a/b", validation="a/c", heads=True))
learner.train(on=True)
features = torch.from_numpy(np.random.default_rng(0).normal(size=(size, 768)).astype(np.float32))
ids = learner.encoder.tokenize(captions).ids
loss = backward(learner, Batch(images=features, ids=ids, image=torch.arange(size)), chunk=64, mask_siblings=True)
print(json.dumps([loss, peak_memory()]))
"""


@pytest.mark.full
def test_a_batch_of_4096_needs_little_more_memory_than_one_of_64(full_clip: Path, test_data: Path) -> None:
    file = test_data / "coco-captions" / "annotations" / "captions_val2017.json"
    peaks = []
    for size in (64, 4096):
        words = [sys.executable, "-c", _STEP, str(full_clip), str(file), str(size)]
        loss, peak = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        assert 0 < loss < 20
        peaks.append(peak)
        print(f"batch of {size}: loss {loss:.3f}, peak {peak / 2**30:.2f} GB")  # pytest -rP shows it
    assert peaks[1] - peaks[0] < 3 * 2**30


@pytest.mark.full
def test_a_gradient_in_chunks_is_that_of_the_whole_batch_in_full_size(full_clip: Path, test_data: Path) -> None:
    _, captions = photos_and_captions(test_data, 96)
    training = Training(split="a/b", validation="a/c", heads=True, temperature="trained", lora=Lora(dropout=0.0))
    learner = LoraClip(Model(name="m", family="clip", base=str(full_clip)), training)
    for name, weight in learner.weights().items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(2))
    learner.train(on=True)
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(96, 768)).astype(np.float32))
    batch = Batch(images=features, ids=learner.encoder.tokenize(captions).ids, image=torch.arange(96))
    made = []
    for chunk in (96, 32):
        for weight in learner.weights().values():
            weight.grad = None
        backward(learner, batch, chunk=chunk, mask_siblings=False)
        made.append(torch.cat([weight.grad.flatten() for weight in learner.weights().values()]))
    assert (made[0] - made[1]).norm() <= 1e-5 * made[0].norm()


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_demo_gains_5_points_in_both_directions(seed: int, cli_json: Run, tmp_path: Path) -> None:
    began = time.perf_counter()
    told = cli_json("demo", tmp_path / "demo", "--seed", seed)
    base, subset, full = (one["metrics"] for one in told["evaluations"])
    for direction in ("text_retrieval_recall@1", "image_retrieval_recall@1"):
        print(f"seed {seed}, {direction}: {base[direction]:.3f}, {subset[direction]:.3f}, {full[direction]:.3f}")
        assert full[direction] >= base[direction] + 0.05
    assert [one["measured_on"]["seen_images"] for one in told["evaluations"]] == [None, 0, 0]
    assert time.perf_counter() - began < 360


@pytest.mark.full
def test_real_photos_from_end_to_end(test_data: Path, workspace: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    file = write_job(
        "flickr", 'split = "flickr8k/train"\nvalidation = "flickr8k/test"\nbatch = 64\nepochs = 3\nheads = true'
    )
    print(cli("run", file).stdout)  # pytest -rP shows it
    losses = [epoch["loss"] for epoch in cli_json("train", "--model", "flickr")["history"][1:]]
    assert losses == sorted(losses, reverse=True)
