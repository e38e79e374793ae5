"""A training that is continued, refused or already running; jobs by name and by path; names that mean one thing."""

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


def test_more_epochs_continue_to_the_weights_of_one_long_training(
    workspace: Path, store: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "whole")
    write_job("mine", "epochs = 3\npatience = 3")
    cli("train", "--model", "mine", "--store", tmp_path / "whole")
    write_job("mine", "epochs = 1\npatience = 1")
    cli("train", "--model", "mine")
    write_job("mine", "epochs = 3\npatience = 3")
    result = cli("train", "--model", "mine")
    assert "mine: epochs 1 -> 3 and patience 1 -> 3: training goes on in epoch 2" in result.stderr
    assert "extended: epochs 1 -> 3, patience 1 -> 3" in result.stdout
    for name in ("best", "last"):
        assert weight_digests(store / "adapters" / "mine" / name) == weight_digests(
            tmp_path / "whole" / "adapters" / "mine" / name
        )
    assert metrics_csv(store, "mine") == metrics_csv(tmp_path / "whole", "mine")
    again = cli_json("train", "--model", "mine")
    assert (again["extended"], again["stopped_by"], len(again["history"])) == ({}, "epochs", 4)


def test_a_cosine_is_laid_over_all_epochs_and_said(workspace: Path, store: Path, cli: Run, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "whole")
    settings = 'decay = "cosine"\nwarmup = 3\nepochs = '
    write_job("mine", f"{settings}3")
    cli("train", "--model", "mine", "--store", tmp_path / "whole")
    write_job("mine", f"{settings}1")
    cli("train", "--model", "mine")
    write_job("mine", f"{settings}3")
    told = cli("train", "--model", "mine").stderr
    assert "by the cosine over 3 epochs; the epochs before went by the cosine over 1" in told
    rates, whole = ([row["learning_rate"] for row in metrics_csv(at, "mine")] for at in (store, tmp_path / "whole"))
    assert rates[2:] == whole[2:]
    assert float(rates[1]) < float(whole[1])  # the first epoch ended its own cosine
    assert f"at the learning rate {1e-3 * _half_cosine(6, 3, 18):.3g}," in told


def _half_cosine(step: int, warmup: int, total: int) -> float:
    import math

    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def test_an_extension_that_leaves_nothing_to_do_says_what_to_raise(trained: Trained, cli: Run) -> None:
    write_job("mine", "patience = 9")
    assert "nothing is left to train: it stopped by epochs, so raise epochs" in cli("train", "--model", "mine").stderr


def test_an_extension_removes_what_was_measured_of_the_adapter(trained: Trained, cli: Run, sql: Run) -> None:
    file = write_job("mine", rest='[eval]\nsplits = ["t/val"]\n')
    cli("run", file)
    count = "SELECT count(*) AS n FROM evaluations JOIN models USING (model_id) WHERE name = 'mine'"
    cli("train", "--model", "mine")
    assert sql(count) == [{"n": 1}]  # nothing was left to do
    write_job("mine", "epochs = 3")
    cli("train", "--model", "mine")
    assert sql(count) == [{"n": 0}]


@pytest.mark.parametrize(
    ("train", "lora", "words"),
    [
        ("epochs = 1", "", ["epochs 2, the job says 1"]),
        ("patience = 2", "", ["patience 3, the job says 2"]),
        ("learning_rate = 1e-4\nbatch = 8", "", ["batch 16, the job says 8; learning_rate 0.001, the job says 0.0001"]),
        ("mask_siblings = true", "", ["mask_siblings false, the job says true"]),
        ("", 'r = 4\nmodules = ["q_proj"]', ["lora.r 8, the job says 4", 'lora.modules ["q_proj", "v_proj"], the job']),
    ],
)
def test_the_setting_that_differs_is_named(trained: Trained, cli: Run, train: str, lora: str, words: list[str]) -> None:
    write_job("mine", train, lora=lora)
    told = cli("train", "--model", "mine", code=1).stderr
    assert not [word for word in ["other settings of [train]", *words] if word not in told], told
    assert "--restart" in told


def test_a_checkpoint_without_a_newer_setting_has_its_default(
    trained: Trained, store: Path, cli: Run, cli_json: Run
) -> None:
    for name in ("best", "last"):
        file = store / "adapters" / "mine" / name / "training.json"
        told = json.loads(file.read_text())
        del told["training"]["mask_siblings"]
        file.write_text(json.dumps(told))
    assert cli_json("train", "--model", "mine")["resumed"] == [3, 0]
    write_job("mine", "mask_siblings = true")
    assert "mask_siblings false, the job says true" in cli("train", "--model", "mine", code=1).stderr


# ---- two at once ----

# Trains, and holds still when the first epoch was measured.
_HOLD = """
import sys
from pathlib import Path
from clipstore.store.models import find_job
from clipstore.store.layout import Store
from clipstore.pipeline.train.run import TrainOptions, train

def hold(epoch):
    print(f"epoch {epoch.epoch}", flush=True)
    sys.stdin.readline()

store = Store(Path(sys.argv[1]))
train(store, find_job(store, "mine"), TrainOptions(device="cpu", on_epoch=hold))
"""


def test_two_trainings_of_one_job_do_not_run_at_once(workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    write_job("mine")
    write_job("other", "epochs = 1")
    words = [sys.executable, "-c", _HOLD, str(store)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment(store), **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "epoch 0\n"
        for more in ((), ("--restart",)):
            told = cli("train", "--model", "mine", *more, code=1).stderr
            assert f"mine is being trained by process {process.pid}" in told
        cli("train", "--model", "other")  # another adapter is free
        process.kill()
    assert cli_json("train", "--model", "mine")["history"][-1]["epoch"] == 2  # released, though it was killed


def test_locks_exclude_as_they_say(store: Path) -> None:
    at = Store(store)
    taken = partial(pytest.raises, ClipstoreError)
    with training_lock(at, "a"), training_lock(at, "b"), taken(match="a is being trained by"), training_lock(at, "a"):
        pass
    with shard_write_lock(at), shard_write_lock(at), taken(match="is writing shards"), shard_removal_lock(at):
        pass
    with shard_removal_lock(at), taken(match="'clipstore gc' is removing"), shard_write_lock(at):
        pass


# ---- a job by name and by path ----


def test_run_and_train_take_a_name_and_a_path_alike(workspace: Path, store: Path, cli: Run, cli_json: Run) -> None:
    file = write_job("mine", "epochs = 1")
    by_name = cli_json("run", "mine")
    assert by_name["job"] == "jobs/mine.toml"
    again = cli_json("train", "--model", file)
    assert (again["model"], again["resumed"]) == ("mine", [2, 0])
    assert cli_json("run", file.absolute())["evaluations"][0]["model"] == "mine"
    assert cli_json("model", "show", file)["from"] == "jobs/mine.toml"
    assert len(cli_json("embed", "--model", file, "--model", "mine", "--split", "t/val")["embedded"]) == 2
    cli("eval", "--model", "demo", "--split", "t/val")
    told = cli_json("compare", "demo", file, "--split", "t/val")
    assert "mine" in json.dumps(told)
    assert cli_json("model", "trained", file, "--split", "t/train") == {"model": "mine", "training_images": 18}
    assert cli_json("eval", "remove", "--model", file, "--yes")["removed"]["evaluations"] == 1
    assert cli_json("model", "remove", file, "--yes")["what"] == "the model mine"
    assert "clipstore model add NAME --base x/y" in cli("embed", "--model", "x/y", code=1).stderr
    assert [row["name"] for row in cli_json("model", "list")["models"]].count("mine") == 1


def test_a_job_elsewhere_is_trained_by_its_path_and_then_known_by_its_name(
    workspace: Path, cli: Run, cli_json: Run, tmp_path: Path
) -> None:
    file = write_job("mine", "epochs = 1")
    other = file.rename(tmp_path / "mine.toml")
    cli("train", "--model", other)
    cli("embed", "--model", "mine", "--split", "t/val")
    assert cli_json("eval", "--model", "mine", "--split", "t/val")["evaluations"][0]["model"] == "mine"
    write_job("mine", "epochs = 1\nseed = 9")
    assert "two jobs of one name" in cli("train", "--model", other, code=1).stderr


def test_the_path_of_a_packaged_job_works_from_any_folder(workspace: Path, store: Path, cli: Run) -> None:
    told = cli("run", "jobs/demo-full.toml", code=1)
    assert "unknown split" in told.stderr.splitlines()[-1]
    with_path = cli("model", "show", "jobs/demo-full.toml").stdout
    assert str(packaged_folder("jobs") / "demo-full.toml") in with_path
    assert "no job file elsewhere/demo-full.toml" in cli("run", "elsewhere/demo-full.toml", code=1).stderr
    assert (
        "no job file jobs/demo-ful.toml (did you mean 'demo-full'?)" in cli("run", "jobs/demo-ful.toml", code=1).stderr
    )
    assert "did you mean 'demo-full'" in cli("run", "demo-ful", code=1).stderr


def test_the_packaged_job_is_named_when_it_stands_for_a_path(workspace: Path, cli: Run) -> None:
    """The packaged demo-subset, trained on splits of the names that it has."""
    draw_dataset(workspace / "scenes", images=12, seed=7, split="train")
    draw_dataset(workspace / "scenes", images=2, seed=8, split="val", first=13)
    cli("ingest", "coco", workspace / "scenes", "--name", "scenes")
    cli("split", "subset", "--from", "scenes/train", "--validation", "0.5")
    told = cli("run", "jobs/demo-subset.toml")
    packaged = packaged_folder("jobs") / "demo-subset.toml"
    assert f"jobs/demo-subset.toml is not in this folder: using the packaged job {packaged}\n" in told.stderr
    assert f"job: {packaged}\n" in told.stdout


# ---- a name means one thing ----


def test_a_name_that_means_two_things_is_refused_everywhere(workspace: Path, cli: Run, cli_json: Run) -> None:
    cli("model", "add", "mine", "--base", "bundled:demo")
    write_job("mine")
    for words in (
        ("model", "show", "mine"),
        ("embed", "--model", "mine"),
        ("eval", "--model", "mine", "--split", "t/val"),
        ("train", "--model", "mine"),
        ("run", "jobs/mine.toml"),
        ("export", "model", "mine", "out"),
        ("retrieve", "a dog", "--model", "mine", "--split", "t/val"),
    ):
        told = cli(*words, code=1).stderr
        assert "'mine' means two things" in told, words
        assert "adapter None (not " in told
        assert "clipstore model remove mine" in told
    rows = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert "means two things" in rows["mine"]["problem"]


def test_the_name_of_a_job_is_not_recorded_a_second_time(workspace: Path, cli: Run, cli_json: Run, sql: Run) -> None:
    before = sql("FROM models")
    said = cli("model", "add", "demo", "--base", "bundled:demo").stdout
    assert said == f"demo: this model is the job {packaged_folder('jobs') / 'demo.toml'} already; nothing to record\n"
    assert sql("FROM models") == before
    (workspace / "jobs" / "demo.toml").write_text('[model]\nbase = "bundled:demo"\nprompt = "a {}"\n')
    shown = cli_json("model", "show", "demo")
    assert (shown["prompt"], shown["from"]) == ("a {}", "jobs/demo.toml")
    assert cli_json("embed", "--model", "demo", "--split", "t/val", "--dry-run")["embedded"]
    assert "is the name of the job" in cli("model", "add", "demo", "--base", "bundled:demo", code=1).stderr


def test_a_packaged_job_does_not_stand_for_one_of_another_folder(
    workspace: Path, cli: Run, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "jobs" / "pretrained.toml").write_text('[model]\nbase = "bundled:demo"\nclean = true\n')
    cli("model", "trained", "pretrained", "--split", "t/train")  # recorded
    monkeypatch.chdir(tmp_path)
    for words in (("model", "show", "pretrained"), ("embed", "--model", "pretrained")):
        told = cli(*words, code=1).stderr
        assert "the packaged job" in told
        assert "base 'bundled:demo' (not 'openai/clip-vit-base-patch32') and clean True (not False)" in told
    rows = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert "a job file of another folder" in rows["pretrained"]["problem"]
    monkeypatch.chdir(workspace)
    assert cli_json("model", "show", "pretrained")["base"] == "bundled:demo"


def test_the_base_of_a_job_replaces_no_model_of_its_name(workspace: Path, cli: Run, cli_json: Run) -> None:
    file = write_job("mine")
    file.write_text(file.read_text().replace("[train]", "clean = true\n[train]", 1))
    cli("model", "add", "mine.base", "--base", "bundled:demo")
    told = cli("train", "--model", "mine", code=1).stderr
    assert "recorded as 'mine.base'" in told
    assert "clean False (not True)" in told
    assert cli_json("model", "show", "mine.base")["clean"] is False
