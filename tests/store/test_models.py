"""What a model's name means: jobs, what was recorded, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from clipstore.demo import scenes

Run = Callable[..., Result]

BUNDLED = Path(scenes.__file__).parent / "model"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of this test's own, with a folder jobs."""
    folder = tmp_path / "here"
    (folder / "jobs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


TRAINS = '[model]\nbase = "x/y"\n[train]\nsplit = "a/b"\nvalidation = "a/c"\n'


def job(here: Path, name: str, text: str) -> Path:
    file = here / "jobs" / f"{name}.toml"
    file.write_text(text)
    return file


def test_a_job_of_this_folder_comes_before_the_packaged_one(here: Path, cli_json: Callable[..., Any]) -> None:
    job(here, "demo", '[model]\nbase = "bundled:demo"\nprompt = "a photo of {}"\n')
    assert cli_json("model", "show", "demo")["prompt"] == "a photo of {}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[model]\nbase = "x/y"\nprompd = "{}"', ["j.toml:3", "prompd", "did you mean 'prompt'"]),
        ('[modle]\nbase = "x/y"', ["j.toml:1", "modle", "did you mean 'model'"]),
        ("[model]\nbase = 3", ["j.toml:2", "base = 3: expected str"]),
        ('[model]\nbase = "x/y"\nfamily = "clop"', ["clop", "did you mean 'clip'"]),
        ('[model]\nbase = "x/y"\nprompt = "a photo"', ["prompt", "{}"]),
        ("[model]\nclean = true", ["needs a base"]),
        (f"{TRAINS}lerning_rate = 1", ["j.toml:6", "did you mean 'learning_rate'"]),
        (f"{TRAINS}learning_rate = -1", ["j.toml:6", "learning_rate = -1: expected float > 0.0"]),
        (f'{TRAINS}watch = "recall@1"', ["j.toml:6", "text_retrieval_recall@1", "rsum"]),
        (f'{TRAINS}decay = "linear"', ["j.toml:6", "there are: cosine, none"]),
        (f"{TRAINS}[train.lora]\nr = 0", ["j.toml:7", "r = 0: expected int >= 1"]),
        (f'{TRAINS}[train.lora]\ntowers = ["image"]', ["j.toml:7", "'image'"]),
        (f"{TRAINS}[train.lora]\ntowers = []", ["j.toml:7", 'towers = ["text"]']),
        ('[model]\nbase = "x/y"\n[train]\nsplit = "a/b"', ["j.toml:3", "needs validation"]),
        ('[model]\nbase = "x/y"\nadapter = "z"\n[train]\nsplit = "a/b"\nvalidation = "a/c"', ["j.toml:3", "adapter"]),
        ('[model]\nbase = "x/y"\n[eval]\nsplits = "a/b"', ["j.toml:4", "splits"]),
        ('[model]\nbase = "x/y"\nname = "z"', ["j.toml:3", "the name is that of the file"]),
        ("[model\n", ["cannot read the job"]),
        ("", ["[model]"]),
    ],
)
def test_a_wrong_job_says_where(here: Path, cli: Run, text: str, words: list[str]) -> None:
    job(here, "j", text)
    told = cli("model", "show", "j", code=1).stderr
    assert not [word for word in words if word not in told], told


def test_a_wrong_job_hides_no_other_model(here: Path, cli_json: Callable[..., Any]) -> None:
    job(here, "j", "[modle]")
    rows = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert "unknown table" in rows["j"]["problem"]
    assert rows["demo"]["base"] == "bundled:demo"


def test_a_name_never_means_two_things(here: Path, cli: Run) -> None:
    cli("model", "add", "mine", "--base", "bundled:demo")
    job(here, "mine", '[model]\nbase = "openai/clip-vit-base-patch32"\n')
    assert "means two things" in cli("model", "show", "mine", code=1).stderr
    assert "name of the job" in cli("model", "add", "pretrained", "--base", "bundled:demo", code=1).stderr


def test_a_folder_is_recorded_by_its_absolute_path(here: Path, cli: Run, cli_json: Callable[..., Any]) -> None:
    shutil.copytree(BUNDLED, here / "copy")
    cli("model", "add", "mine", "--base", "copy")
    cli("model", "add", "mine", "--base", "./copy")
    assert cli_json("model", "show", "mine")["base"] == str(here / "copy")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "[x]", "-x", "x\ny"])
def test_odd_names_are_refused(cli: Run, store: Path, name: str) -> None:
    assert "cannot be named" in cli("model", "add", "--base", "bundled:demo", "--", name, code=1).stderr
    assert not store.exists()


def test_a_config_that_is_none_is_told_in_words(here: Path, cli: Run) -> None:
    shutil.copytree(BUNDLED, here / "copy")
    (here / "copy" / "config.json").write_text("{}")
    told = cli("model", "add", "mine", "--base", "copy", code=1).stderr
    assert "is no model that transformers knows (no model_type)" in told


def test_a_job_that_changed_is_told_before_its_old_vectors_are_ranked(here: Path, cli: Run) -> None:
    cli("ingest", "csv", _table(here))
    job(here, "mine", '[model]\nbase = "bundled:demo"\n')
    cli("embed", "--model", "mine")
    job(here, "mine", '[model]\nbase = "bundled:demo"\nclean = true\n')
    assert "has changed since it was embedded" in cli("eval", "--model", "mine", "--split", "t/all", code=1).stderr


def test_prompt_and_cleaning_make_the_text_that_is_read(here: Path, cli: Run, cli_json: Callable[..., Any]) -> None:
    cli("ingest", "csv", _table(here))
    job(here, "mine", '[model]\nbase = "bundled:demo"\nprompt = "a photo of {}."\nclean = true\n')
    cli("embed", "--model", "mine")
    rows = cli_json(
        "sql",
        "SELECT captions.text AS said, items.text AS read FROM caption_items AS items "
        "JOIN captions USING (caption_id) JOIN models USING (model_id) WHERE models.name = 'mine'",
    )
    assert rows == [{"said": "A  Dog! (Rex)", "read": "a photo of a dog rex."}]


def _table(here: Path) -> Path:
    file = here / "t.csv"
    file.write_text("image_path,caption\na.jpg,A  Dog! (Rex)\n")
    return file
