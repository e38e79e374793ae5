"""Trainings that are extended, refused or already running; jobs by name and by path; ambiguous names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import Trained, environment, metrics_csv, weight_digests, write_job

from clipstore.demo.scenes import draw_dataset
from clipstore.errors import ClipstoreError
from clipstore.resources import packaged_folder
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock, shard_write_lock, training_lock

Run = Callable[..., Any]


# ---- more epochs, more patience ----


@pytest.mark.full
def test_an_extended_training_ends_with_the_weights_of_one_long_training(
    workspace: Path, store: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "whole")
    write_job("tuned", "epochs = 3\npatience = 3")
    cli("train", "--model", "tuned", "--store", tmp_path / "whole")
    write_job("tuned", "epochs = 1\npatience = 1")
    cli("train", "--model", "tuned")
    write_job("tuned", "epochs = 3\npatience = 3")
    result = cli("train", "--model", "tuned")
    assert "tuned: epochs 1 -> 3 and patience 1 -> 3: training continues in epoch 2" in result.stderr
    assert "extended: epochs 1 -> 3, patience 1 -> 3" in result.stdout
    for name in ("best", "last"):
        assert weight_digests(store / "adapters" / "tuned" / name) == weight_digests(
            tmp_path / "whole" / "adapters" / "tuned" / name
        )
    assert metrics_csv(store, "tuned") == metrics_csv(tmp_path / "whole", "tuned")
    again = cli_json("train", "--model", "tuned")
    assert (again["extended"], again["stopped_by"], len(again["history"])) == ({}, "epochs", 4)


@pytest.mark.full
def test_an_extended_cosine_spans_all_epochs(workspace: Path, store: Path, cli: Run, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "whole")
    settings = 'decay = "cosine"\nwarmup = 3\nepochs = '
    write_job("tuned", f"{settings}3")
    cli("train", "--model", "tuned", "--store", tmp_path / "whole")
    write_job("tuned", f"{settings}1")
    cli("train", "--model", "tuned")
    write_job("tuned", f"{settings}3")
    stderr = cli("train", "--model", "tuned").stderr
    assert "cosine decay over 3 epochs (previously 1)" in stderr
    rates, whole = ([row["learning_rate"] for row in metrics_csv(at, "tuned")] for at in (store, tmp_path / "whole"))
    assert rates[2:] == whole[2:]
    assert float(rates[1]) < float(whole[1])  # the cosine of the first training ended after its epoch
    assert f"at the learning rate {1e-3 * _half_cosine(6, 3, 18):.3g}," in stderr


def _half_cosine(step: int, warmup: int, total: int) -> float:
    import math

    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


@pytest.mark.full
def test_an_extension_without_effect_names_the_setting_to_raise(trained: Trained, cli: Run) -> None:
    write_job("tuned", "patience = 9")
    stderr = cli("train", "--model", "tuned").stderr
    assert "training already finished (limit: " in stderr
    assert "raise epochs" in stderr


@pytest.mark.full
def test_an_extension_deletes_evaluations(trained: Trained, cli: Run, sql: Run) -> None:
    file = write_job("tuned", rest='[eval]\nsplits = ["t/val"]\n')
    cli("run", file)
    count = "SELECT count(*) AS n FROM evaluations JOIN models USING (model_id) WHERE name = 'tuned'"
    cli("train", "--model", "tuned")
    assert sql(count) == [{"n": 1}]  # nothing was left to do
    write_job("tuned", "epochs = 3")
    cli("train", "--model", "tuned")
    assert sql(count) == [{"n": 0}]


@pytest.mark.parametrize(
    ("train", "lora", "words"),
    [
        pytest.param("epochs = 1", "", ["epochs 2, now 1"], marks=pytest.mark.full),
        pytest.param("patience = 2", "", ["patience 3, now 2"], marks=pytest.mark.full),
        pytest.param(
            "learning_rate = 1e-4\nbatch = 8",
            "",
            ["batch 16, now 8; learning_rate 0.001, now 0.0001"],
            marks=pytest.mark.full,
        ),
        pytest.param("mask_siblings = true", "", ["mask_siblings false, now true"], marks=pytest.mark.full),
        ("", 'r = 4\nmodules = ["q_proj"]', ["lora.r 8, now 4", 'lora.modules ["q_proj", "v_proj"], now ["q_proj"]']),
    ],
)
def test_changed_settings_are_named(trained: Trained, cli: Run, train: str, lora: str, words: list[str]) -> None:
    write_job("tuned", train, lora=lora)
    stderr = cli("train", "--model", "tuned", code=1).stderr
    for expected in ("settings of [train]", *words, "--restart"):
        assert expected in stderr


def test_a_setting_missing_in_a_checkpoint_has_its_default(
    trained: Trained, store: Path, cli: Run, cli_json: Run
) -> None:
    for name in ("best", "last"):
        file = store / "adapters" / "tuned" / name / "training.json"
        record = json.loads(file.read_text())
        del record["training"]["mask_siblings"]
        file.write_text(json.dumps(record))
    assert cli_json("train", "--model", "tuned")["resumed"] == [3, 0]
    write_job("tuned", "mask_siblings = true")
    assert "mask_siblings false, now true" in cli("train", "--model", "tuned", code=1).stderr


# ---- locks ----

# Trains, and waits for a line on stdin after each validation.
_WAITING_TRAINING = """
import sys
from pathlib import Path
from clipstore.store.models import find_job
from clipstore.store.layout import Store
from clipstore.pipeline.train.run import TrainOptions, train

def wait(epoch):
    print(f"epoch {epoch.epoch}", flush=True)
    sys.stdin.readline()

store = Store(Path(sys.argv[1]))
train(store, find_job(store, "tuned"), TrainOptions(device="cpu", on_epoch=wait))
"""


@pytest.mark.full
def test_two_trainings_of_one_job_do_not_run_at_once(workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    write_job("tuned")
    write_job("other", "epochs = 1")
    words = [sys.executable, "-c", _WAITING_TRAINING, str(store)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment(store), **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "epoch 0\n"
        for options in ((), ("--restart",)):
            stderr = cli("train", "--model", "tuned", *options, code=1).stderr
            assert f"tuned is being trained by process {process.pid}" in stderr
        cli("train", "--model", "other")  # the lock is per adapter
        process.kill()
    assert cli_json("train", "--model", "tuned")["history"][-1]["epoch"] == 2  # a kill releases the lock


def test_locks_exclude_each_other(store: Path) -> None:
    at = Store(store)
    refused = partial(pytest.raises, ClipstoreError)
    with training_lock(at, "a"), training_lock(at, "b"), refused(match="a is being trained by"), training_lock(at, "a"):
        pass
    with shard_write_lock(at), shard_write_lock(at), refused(match="is writing shards"), shard_removal_lock(at):
        pass
    with shard_removal_lock(at), refused(match="'clipstore gc' is removing"), shard_write_lock(at):
        pass


# ---- jobs by name and by path ----


@pytest.mark.full
def test_commands_take_the_name_or_the_path_of_a_job(workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    file = write_job("tuned", "epochs = 1")
    by_name = cli_json("run", "tuned")
    assert by_name["job"] == "jobs/tuned.toml"
    by_path = cli_json("train", "--model", file)
    assert (by_path["model"], by_path["resumed"]) == ("tuned", [2, 0])
    assert cli_json("run", file.absolute())["evaluations"][0]["model"] == "tuned"
    assert cli_json("model", "show", file)["from"] == "jobs/tuned.toml"
    assert len(cli_json("embed", "--model", file, "--model", "tuned", "--split", "t/val")["embedded"]) == 2
    cli("eval", "--model", "demo", "--split", "t/val")
    assert "tuned" in json.dumps(cli_json("compare", "demo", file, "--split", "t/val"))
    assert cli_json("model", "trained", file, "--split", "t/train") == {"model": "tuned", "training_images": 18}
    assert cli_json("eval", "remove", "--model", file, "--yes")["removed"]["evaluations"] == 1
    assert cli_json("model", "remove", file, "--yes")["what"] == "the model tuned"
    assert "clipstore model add NAME --base x/y" in cli("embed", "--model", "x/y", code=1).stderr
    assert [row["name"] for row in cli_json("model", "list")["models"]].count("tuned") == 1


def test_a_job_of_another_folder_is_trained_by_path_and_used_by_name(
    workspace: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    file = write_job("tuned", "epochs = 1")
    other = file.rename(tmp_path / "tuned.toml")
    cli("train", "--model", other)
    cli("embed", "--model", "tuned", "--split", "t/val")
    assert cli_json("eval", "--model", "tuned", "--split", "t/val")["evaluations"][0]["model"] == "tuned"
    write_job("tuned", "epochs = 1\nseed = 9")
    assert "different jobs with the same name" in cli("train", "--model", other, code=1).stderr


def test_the_path_of_a_packaged_job_works_from_any_folder(workspace: Path, store: Path, cli: Run) -> None:
    assert "unknown split" in cli("run", "jobs/demo-full.toml", code=1).stderr.splitlines()[-1]
    assert str(packaged_folder("jobs") / "demo-full.toml") in cli("model", "show", "jobs/demo-full.toml").stdout
    assert "no job file elsewhere/demo-full.toml" in cli("run", "elsewhere/demo-full.toml", code=1).stderr
    stderr = cli("run", "jobs/demo-ful.toml", code=1).stderr
    assert "no job file jobs/demo-ful.toml (did you mean 'demo-full'?)" in stderr
    assert "did you mean 'demo-full'" in cli("run", "demo-ful", code=1).stderr


@pytest.mark.full
def test_a_packaged_job_used_for_a_path_is_named(workspace: Path, cli: Run) -> None:
    """The packaged demo-subset, trained on splits with the names in its job."""
    draw_dataset(workspace / "scenes", images=12, seed=7, split="train")
    draw_dataset(workspace / "scenes", images=2, seed=8, split="val", first=13)
    cli("ingest", "coco", workspace / "scenes", "--name", "scenes")
    cli("split", "subset", "--from", "scenes/train", "--validation", "0.5")
    result = cli("run", "jobs/demo-subset.toml")
    packaged = packaged_folder("jobs") / "demo-subset.toml"
    assert f"jobs/demo-subset.toml is not in this folder: using the packaged job {packaged}\n" in result.stderr
    assert f"job: {packaged}\n" in result.stdout


# ---- ambiguous names ----


def test_an_ambiguous_name_is_refused_by_every_command(workspace: Path, cli: Run, cli_json: Run) -> None:
    cli("model", "add", "tuned", "--base", "bundled:demo")
    write_job("tuned")
    for words in (
        ("model", "show", "tuned"),
        ("embed", "--model", "tuned"),
        ("eval", "--model", "tuned", "--split", "t/val"),
        ("train", "--model", "tuned"),
        ("run", "jobs/tuned.toml"),
        ("export", "model", "tuned", "out"),
        ("retrieve", "a dog", "--model", "tuned", "--split", "t/val"),
    ):
        stderr = cli(*words, code=1).stderr
        assert "the name 'tuned' is ambiguous" in stderr, words
        assert "adapter None (not " in stderr
        assert "clipstore model remove tuned" in stderr
    rows = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert "is ambiguous" in rows["tuned"]["problem"]


def test_a_model_that_is_a_job_is_not_recorded_again(workspace: Path, cli: Run, cli_json: Run, sql: Run) -> None:
    before = sql("FROM models")
    stdout = cli("model", "add", "demo", "--base", "bundled:demo").stdout
    assert stdout == f"demo: this model is the job {packaged_folder('jobs') / 'demo.toml'}; nothing to record\n"
    assert sql("FROM models") == before
    (workspace / "jobs" / "demo.toml").write_text('[model]\nbase = "bundled:demo"\nprompt = "a {}"\n')
    row = cli_json("model", "show", "demo")
    assert (row["prompt"], row["from"]) == ("a {}", "jobs/demo.toml")
    assert cli_json("embed", "--model", "demo", "--split", "t/val", "--dry-run")["embedded"]
    assert "is the name of the job" in cli("model", "add", "demo", "--base", "bundled:demo", code=1).stderr


def test_a_packaged_job_does_not_replace_a_recorded_job_of_another_folder(
    workspace: Path, cli: Run, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "jobs" / "pretrained.toml").write_text('[model]\nbase = "bundled:demo"\nclean = true\n')
    cli("model", "trained", "pretrained", "--split", "t/train")  # recorded
    monkeypatch.chdir(tmp_path)
    for words in (("model", "show", "pretrained"), ("embed", "--model", "pretrained")):
        stderr = cli(*words, code=1).stderr
        assert "the packaged job" in stderr
        assert "base 'bundled:demo' (not 'openai/clip-vit-base-patch32') and clean True (not False)" in stderr
    rows = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert "job of another folder" in rows["pretrained"]["problem"]
    monkeypatch.chdir(workspace)
    assert cli_json("model", "show", "pretrained")["base"] == "bundled:demo"


def test_the_base_of_a_job_does_not_replace_a_recorded_model(workspace: Path, cli: Run, cli_json: Run) -> None:
    file = write_job("tuned")
    file.write_text(file.read_text().replace("[train]", "clean = true\n[train]", 1))
    cli("model", "add", "tuned.base", "--base", "bundled:demo")
    stderr = cli("train", "--model", "tuned", code=1).stderr
    assert "'clipstore model remove tuned.base'" in stderr
    assert "clean False (not True)" in stderr
    assert cli_json("model", "show", "tuned.base")["clean"] is False
