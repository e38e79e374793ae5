"""`clipstore train` after an interruption, with a changed job, and with bad input."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_folder import build_lora, edit_json
from helpers import Trained, command_line, environment, metrics_csv, run_command, weight_digests, write_job
from transformers import CLIPModel

from clipstore.demo import scenes as drawn
from clipstore.demo.scenes import draw_dataset

Run = Callable[..., Any]

BUNDLED = Path(drawn.__file__).parent / "model"


# ---- interruptions and changes ----


@pytest.mark.full
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


@pytest.mark.full
def test_a_changed_job_is_not_resumed(trained: Trained, store: Path, cli: Run) -> None:
    before = weight_digests(store / "adapters" / "tuned" / "best")
    write_job("tuned", "learning_rate = 1e-4")
    assert "settings of [train]" in cli("train", "--model", "tuned", code=1).stderr
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
    assert "settings of [train]" in stderr
    assert "training images (18, now 6)" in stderr
    assert sql(statement) == before


@pytest.mark.full
def test_a_checkpoint_of_another_base_is_refused(workspace: Path, store: Path, cli: Run, tmp_path: Path) -> None:
    base = Path(shutil.copytree(BUNDLED, tmp_path / "base"))
    write_job("tuned", base=base)
    cli("train", "--model", "tuned")
    cli("embed", "--model", "tuned", "--split", "t/val")
    weights = CLIPModel.from_pretrained(base)
    with torch.no_grad():
        weights.text_projection.weight.add_(0.01)
    weights.half().save_pretrained(base)
    assert "base weights" in cli("train", "--model", "tuned", code=1).stderr
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


@pytest.mark.full
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


@pytest.mark.full
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
