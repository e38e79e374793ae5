"""`clipstore train` and `clipstore run`: from a job to a model in the store, interruptions and bad input included."""

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
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_folder import build_lora, edit_json
from gradients import read_gradient, reset_gradient
from helpers import Trained, command_line, environment, metrics_csv, run_command, weight_digests, write_job
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


def vectors(store: Path, model: str, kind: str, split: str = "t/val") -> NDArray[Any]:
    return clipstore.open(store).vectors(model, split, kind)[1]


# ---- from start to end ----


@pytest.mark.parametrize("heads", [False, True])
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
    assert "different jobs of one name" in cli("run", "full.toml", code=1).stderr
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


def test_a_restarted_training_deletes_evaluations(trained: Trained, cli: Run, cli_json: Run, sql: Run) -> None:
    file = write_job("tuned", rest='[eval]\nsplits = ["t/val"]\n')
    cli("run", file)
    count = "SELECT count(*) AS n FROM evaluations JOIN models USING (model_id) WHERE name = 'tuned'"
    assert sql(count) == [{"n": 1}]
    assert cli_json("train", "--model", "tuned")["resumed"] == [3, 0]  # nothing left to do
    assert sql(count) == [{"n": 1}]
    assert cli_json("train", "--model", "tuned", "--restart")["resumed"] is None
    assert sql(count) == [{"n": 0}]


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
    summary = {row["tower"]: row for row in cli_json("embed", "--model", "tuned", "--split", "t/val")["embedded"]}
    assert summary["image"]["done"] == 6
    assert summary["image"]["clock"]["decode"] > 0
    evaluation = cli_json("eval", "--model", "tuned", "--split", "t/val")["evaluations"][0]
    assert evaluation["metrics"] == pytest.approx(trained["best"]["metrics"], abs=1e-6)


@pytest.mark.parametrize("refresh", [0, 1])
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


# ---- interruptions ----


def test_a_training_killed_in_epoch_2_resumes_to_the_same_adapter(
    workspace: Path, store: Path, training_store: Path, tmp_path: Path
) -> None:
    write_job("tuned", "epochs = 3\nheads = true\ntemperature = 'trained'\nhard_negatives = 1\nrefresh_negatives = 1")
    whole = tmp_path / "whole"
    shutil.copytree(training_store, whole)
    run_command(whole, "train", "--model", "tuned")
    process = subprocess.Popen(
        command_line("train", "--model", "tuned"), env=environment(store), stderr=subprocess.DEVNULL
    )
    record = store / "adapters" / "tuned" / "last" / "training.json"
    deadline = time.monotonic() + 120
    while not in_epoch_2(record):
        assert time.monotonic() < deadline
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.005)
            pytest.fail("the training ended before it could be killed")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    completed = run_command(store, "train", "--model", "tuned", "--json")
    assert json.loads(completed.stdout)["resumed"][0] == 2
    for name in ("best", "last"):
        assert weight_digests(store / "adapters" / "tuned" / name) == weight_digests(
            whole / "adapters" / "tuned" / name
        )
    assert metrics_csv(store, "tuned") == metrics_csv(whole, "tuned")


def in_epoch_2(file: Path) -> bool:
    """Whether there is a checkpoint within epoch 2. The file may be replaced while it is read."""
    try:
        position = json.loads(file.read_text())["position"]
    except (OSError, ValueError):
        return False
    return bool(position["epoch"] == 2 and position["step"] > 0)


def test_a_changed_job_is_not_resumed(trained: Trained, store: Path, cli: Run) -> None:
    before = weight_digests(store / "adapters" / "tuned" / "best")
    write_job("tuned", "learning_rate = 1e-4")
    assert "other settings of [train]" in cli("train", "--model", "tuned", code=1).stderr
    assert weight_digests(store / "adapters" / "tuned" / "best") == before
    cli("train", "--model", "tuned", "--restart")
    assert weight_digests(store / "adapters" / "tuned" / "best") != before


def test_a_refused_training_leaves_the_catalog_unchanged(trained: Trained, cli: Run, sql: Run) -> None:
    statement = (
        "SELECT image_id FROM training_images JOIN models USING (model_id) WHERE name = 'tuned' ORDER BY image_id"
    )
    before = sql(statement)
    write_job("tuned", 'split = "t/val"\nvalidation = "t/train"')
    stderr = cli("train", "--model", "tuned", code=1).stderr
    assert "other settings of [train]" in stderr
    assert "other training images (18, now 6)" in stderr
    assert sql(statement) == before


def test_a_checkpoint_of_another_base_is_refused(workspace: Path, store: Path, cli: Run, tmp_path: Path) -> None:
    base = Path(shutil.copytree(BUNDLED, tmp_path / "base"))
    write_job("tuned", base=base)
    cli("train", "--model", "tuned")
    cli("embed", "--model", "tuned", "--split", "t/val")
    weights = CLIPModel.from_pretrained(base)
    with torch.no_grad():
        weights.text_projection.weight.add_(0.01)
    weights.half().save_pretrained(base)
    assert "another base" in cli("train", "--model", "tuned", code=1).stderr
    assert "trained on another base" in cli("embed", "--model", "tuned", "--split", "t/val", code=1).stderr


# ---- bad input ----


def test_validation_that_overlaps_training_is_refused_with_the_count(workspace: Path, cli: Run) -> None:
    write_job("tuned", 'validation = "s/all"')
    assert "18 images of s/all are in t/train too" in cli("train", "--model", "tuned", code=1).stderr


def test_the_same_image_file_under_another_name_overlaps(workspace: Path, cli: Run, tmp_path: Path, sql: Run) -> None:
    path = sql(
        "SELECT path FROM images JOIN split_images USING (image_id) JOIN splits USING (split_id) "
        "WHERE splits.name = 't/train' LIMIT 1"
    )[0]["path"]
    other = tmp_path / "other"
    draw_dataset(other / "s", images=3, seed=8, split="v")
    shutil.copy(path, other / "twin.jpg")
    rows = [f"{file.relative_to(other)},a {number}\n" for number, file in enumerate(other.rglob("*.jpg"))]
    (other / "c.csv").write_text("image_path,caption\n" + "".join(rows))
    cli("ingest", "csv", other / "c.csv", "--name", "o")
    write_job("tuned", 'validation = "o/all"')
    assert "1 images of o/all are in t/train too" in cli("train", "--model", "tuned", code=1).stderr


def test_a_split_of_one_image_is_refused(workspace: Path, cli: Run, tmp_path: Path) -> None:
    draw_dataset(tmp_path / "one", images=1, seed=9, split="v")
    cli("ingest", "coco", tmp_path / "one", "--name", "o")
    write_job("tuned", 'split = "o/v"')
    assert "o/v has 1 images with features" in cli("train", "--model", "tuned", code=1).stderr
    write_job("other", 'validation = "o/v"')
    assert "o/v has 1 image:" in cli("train", "--model", "other", code=1).stderr


def test_captions_without_features_are_left_out_and_counted(
    workspace: Path, cli: Run, cli_json: Run, sql: Run, tmp_path: Path
) -> None:
    draw_dataset(tmp_path / "more", images=8, seed=9, split="v")
    files = sorted((tmp_path / "more" / "v").glob("*.jpg"))
    files[0].write_bytes(b"no image")
    files[1].unlink()
    cli("ingest", "coco", tmp_path / "more", "--name", "o")
    write_job("tuned", 'split = "o/v"')
    trained = cli_json("train", "--model", "tuned")
    assert (trained["images"], trained["captions"]) == (6, 30)
    assert (trained["left_out_images"], trained["left_out_captions"]) == (2, 10)
    for file in files[2:]:
        file.write_bytes(b"no image")
    write_job("none", 'split = "o/v"')
    assert "0 images with features" in cli("train", "--model", "none", code=1).stderr


def test_a_non_finite_loss_stops_training(workspace: Path, store: Path, cli: Run) -> None:
    write_job("tuned", "learning_rate = 1e30\nclip = 1e30\nheads = true\nwarmup = 0")
    message = cli("train", "--model", "tuned", code=1).stderr.splitlines()[-1]
    assert "at step 2 of epoch 1" in message
    assert "lower learning_rate" in message
    assert "no epoch was completed" in message
    assert not (store / "adapters" / "tuned" / "best").exists()


def test_a_late_non_finite_loss_leaves_the_last_checkpoint_unchanged(trained: Trained, store: Path, cli: Run) -> None:
    change_checkpoint(store, epochs=3, learning_rate=1e30)
    write_job("tuned", "epochs = 3\nlearning_rate = 1e30")
    before = {name: weight_digests(store / "adapters" / "tuned" / name) for name in ("best", "last")}
    message = cli("train", "--model", "tuned", code=1).stderr.splitlines()[-1]
    assert "of epoch 3" in message
    assert "the checkpoint of epoch 2 is unchanged" in message
    assert {name: weight_digests(store / "adapters" / "tuned" / name) for name in ("best", "last")} == before


def change_checkpoint(store: Path, **changes: object) -> None:
    """Change the settings that the checkpoints of `tuned` record."""
    for name in ("best", "last"):
        file = store / "adapters" / "tuned" / name / "training.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"training": record["training"] | changes}))


def test_an_unknown_module_is_refused_with_those_that_exist(workspace: Path, store: Path, cli: Run) -> None:
    write_job("tuned", lora='modules = ["q_proj", "query"]')
    stderr = cli("train", "--model", "tuned", code=1).stderr
    assert "'query'" in stderr
    assert "k_proj, out_proj, q_proj, v_proj" in stderr
    assert not (store / "adapters").exists()


def test_an_adapter_on_unknown_modules_is_refused(workspace: Path, cli: Run, tmp_path: Path) -> None:
    adapter = build_lora(BUNDLED, tmp_path / "a", targets=["q_proj"])
    edit_json(adapter / "adapter_config.json", target_modules=["query"])
    cli("model", "add", "odd", "--base", "bundled:demo", "--adapter", adapter)
    stderr = cli("embed", "--model", "odd", "--split", "t/val", code=1).stderr
    assert "query" in stderr
    assert "q_proj" in stderr


_FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from clipstore.cli import main
from clipstore.training import checkpoints
replace_folder = checkpoints.replace_folder
def replace_on_full_disk(folder, fill):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    replace_folder(folder, fill)
checkpoints.replace_folder = replace_on_full_disk
main(sys.argv[1:])
"""


def test_a_full_disk_leaves_the_old_checkpoint_unchanged(trained: Trained, store: Path, cli: Run) -> None:
    change_checkpoint(store, epochs=3)
    write_job("tuned", "epochs = 3")
    before = {file: file.read_bytes() for file in (store / "adapters" / "tuned").rglob("*") if file.is_file()}
    words = [sys.executable, "-c", _FULL_DISK, "train", "--model", "tuned"]
    completed = subprocess.run(words, env=environment(store), capture_output=True, text=True, check=False)
    assert completed.returncode == 1
    assert "cannot write the checkpoint" in completed.stderr
    assert "the previous one is unchanged" in completed.stderr
    after = {file: file.read_bytes() for file in (store / "adapters" / "tuned").rglob("*") if file.is_file()}
    assert after == before
    cli("train", "--model", "tuned")
    assert len(metrics_csv(store, "tuned")) == 4


# ---- the demo ----


def test_a_small_demo(cli: Run, tmp_path: Path) -> None:
    result = cli("demo", tmp_path / "demo", "--images", 20)
    for words in (
        "clipstore train --model demo-subset",
        "clipstore train --model demo-full",
        "demo-full against demo:",
        "trained on none of these images",
        "clipstore run jobs/full.toml",
    ):
        assert words in result.stdout
    repeated = json.loads(cli("demo", tmp_path / "demo", "--images", 20, "--json").stdout)  # nothing left to do
    assert [row["model"] for row in repeated["evaluations"]] == ["demo", "demo-subset", "demo-full"]
    assert all(row["resumed"] for row in repeated["trained"])
    assert not any(row["done"] for row in repeated["embedded"])


# ---- in full size ----


def files_and_captions(test_data: Path, count: int) -> tuple[list[Path], list[str]]:
    """Image files of coco-mini with one caption each."""
    files, captions = [], []
    for split in ("train2017", "val2017"):
        annotations = json.loads((test_data / "coco-mini" / "annotations" / f"captions_{split}.json").read_text())
        first = {row["image_id"]: row["caption"] for row in reversed(annotations["annotations"])}
        files += [test_data / "coco-mini" / split / image["file_name"] for image in annotations["images"]]
        captions += [first[image["id"]] for image in annotations["images"]]
    return files[:count], captions[:count]


@pytest.mark.full
def test_a_step_takes_at_most_35_in_100_of_the_studys(full_clip: Path, test_data: Path) -> None:
    """The study's step decodes and encodes each image, pads to the longest caption, and trains the same LoRA."""
    model = Model(name="m", family="clip", base=str(full_clip))
    training = Training(split="a/b", validation="a/c", lora=Lora(dropout=0.0))
    processor, tokenizer = CLIPImageProcessorPil.from_pretrained(full_clip), AutoTokenizer.from_pretrained(full_clip)
    study, ours = (LoraClip(model, training) for _ in range(2))
    clip = study._clip
    clip.set_attn_implementation("sdpa")  # transformers' default
    files, captions = files_and_captions(test_data, 128)
    pixels = np.stack([decode_pixels(file.read_bytes(), ours.encoder.preprocessing) for file in files])
    features = np.concatenate([ours.encoder.image_features(pixels[start : start + 32]) for start in range(0, 128, 32)])
    ids = ours.encoder.tokenize(captions).ids
    optimizers = [torch.optim.AdamW(list(learner.weights().values()), lr=1e-4) for learner in (study, ours)]
    for learner in (study, ours):
        learner.train(on=True)

    def study_step(rows: list[int]) -> float:
        images = [Image.open(files[row]).convert("RGB") for row in rows]
        text = tokenizer([captions[row] for row in rows], padding=True, return_tensors="pt")
        output = clip(**text, pixel_values=processor(images, return_tensors="pt")["pixel_values"], return_loss=True)
        output.loss.backward()
        return output.loss.item()

    def our_step(rows: list[int]) -> float:
        batch = Batch(images=torch.from_numpy(features[rows]), ids=[ids[row] for row in rows], image=torch.tensor(rows))
        return backward(ours, batch, chunk=64, mask_siblings=False)

    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(8):
        rows = np.random.default_rng(number).choice(128, size=32, replace=False).tolist()
        losses = []
        for step, optimizer, durations in zip((study_step, our_step), optimizers, seconds, strict=True):
            began = time.perf_counter()
            optimizer.zero_grad()
            losses.append(step(rows))
            optimizer.step()
            durations.append(time.perf_counter() - began)
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    study_seconds, our_seconds = (float(np.median(durations[2:])) for durations in seconds)
    ratio = our_seconds / study_seconds
    print(f"a step of the study {study_seconds:.2f} s, ours {our_seconds:.2f} s: {ratio:.3f}")  # pytest -rP shows it
    assert ratio <= 0.35


_STEP = """
import json, sys
import numpy as np, torch
from pathlib import Path
from clipstore.encoders.lora import LoraClip
from clipstore.pipeline.evaluate.rank import peak_memory
from clipstore.records import Model, Training
from clipstore.training.gradients import Batch, backward
base, file, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
captions = [row["caption"] for row in json.loads(Path(file).read_text())["annotations"]][:size]
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
def test_the_gradient_in_chunks_equals_that_of_the_whole_batch_in_full_size(full_clip: Path, test_data: Path) -> None:
    _, captions = files_and_captions(test_data, 96)
    training = Training(split="a/b", validation="a/c", heads=True, temperature="trained", lora=Lora(dropout=0.0))
    learner = LoraClip(Model(name="m", family="clip", base=str(full_clip)), training)
    for name, weight in learner.weights().items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02, generator=torch.Generator().manual_seed(2))
    learner.train(on=True)
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(96, 768)).astype(np.float32))
    batch = Batch(images=features, ids=learner.encoder.tokenize(captions).ids, image=torch.arange(96))
    gradients = []
    for chunk in (96, 32):
        reset_gradient(learner)
        backward(learner, batch, chunk=chunk, mask_siblings=False)
        gradients.append(torch.cat([weight.flatten() for weight in read_gradient(learner).values()]))
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_demo_gains_5_points_in_both_directions(seed: int, cli_json: Run, tmp_path: Path) -> None:
    began = time.perf_counter()
    evaluations = cli_json("demo", tmp_path / "demo", "--seed", seed)["evaluations"]
    base, subset, full = (evaluation["metrics"] for evaluation in evaluations)
    for direction in ("text_retrieval_recall@1", "image_retrieval_recall@1"):
        print(f"seed {seed}, {direction}: {base[direction]:.3f}, {subset[direction]:.3f}, {full[direction]:.3f}")
        assert full[direction] >= base[direction] + 0.05
    assert [evaluation["measured_on"]["seen_images"] for evaluation in evaluations] == [None, 0, 0]
    assert time.perf_counter() - began < 360


@pytest.mark.full
def test_flickr8k_from_start_to_end(test_data: Path, workspace: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    file = write_job(
        "flickr", 'split = "flickr8k/train"\nvalidation = "flickr8k/test"\nbatch = 64\nepochs = 3\nheads = true'
    )
    print(cli("run", file).stdout)  # pytest -rP shows it
    losses = [epoch["loss"] for epoch in cli_json("train", "--model", "flickr")["history"][1:]]
    assert losses == sorted(losses, reverse=True)
