"""Model names: jobs, recorded models, and names that are errors."""

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
def workspace_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new working folder with a folder jobs."""
    folder = tmp_path / "workspace"
    (folder / "jobs").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


TRAINS = '[model]\nbase = "x/y"\n[train]\nsplit = "a/b"\nvalidation = "a/c"\n'


def job(workspace_folder: Path, name: str, text: str) -> Path:
    file = workspace_folder / "jobs" / f"{name}.toml"
    file.write_text(text)
    return file


def test_job_of_the_working_folder_precedes_the_packaged_one(
    workspace_folder: Path, cli_json: Callable[..., Any]
) -> None:
    job(workspace_folder, "demo", '[model]\nbase = "bundled:demo"\nprompt = "a photo of {}"\n')
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
def test_error_of_an_invalid_job_names_file_and_line(
    workspace_folder: Path, cli: Run, text: str, words: list[str]
) -> None:
    job(workspace_folder, "j", text)
    error = cli("model", "show", "j", code=1).stderr
    assert not [word for word in words if word not in error], error


def test_invalid_job_hides_no_other_model(workspace_folder: Path, cli_json: Callable[..., Any]) -> None:
    job(workspace_folder, "j", "[modle]")
    rows = {row["name"]: row for row in cli_json("model", "list")["models"]}
    assert "unknown table" in rows["j"]["problem"]
    assert rows["demo"]["base"] == "bundled:demo"


def test_name_of_two_different_models_is_an_error(workspace_folder: Path, cli: Run) -> None:
    cli("model", "add", "custom", "--base", "bundled:demo")
    job(workspace_folder, "custom", '[model]\nbase = "openai/clip-vit-base-patch32"\n')
    assert "is ambiguous" in cli("model", "show", "custom", code=1).stderr
    assert "name of the job" in cli("model", "add", "pretrained", "--base", "bundled:demo", code=1).stderr


def test_folder_is_recorded_by_its_absolute_path(
    workspace_folder: Path, cli: Run, cli_json: Callable[..., Any]
) -> None:
    shutil.copytree(BUNDLED, workspace_folder / "copy")
    cli("model", "add", "custom", "--base", "copy")
    cli("model", "add", "custom", "--base", "./copy")
    assert cli_json("model", "show", "custom")["base"] == str(workspace_folder / "copy")


@pytest.mark.parametrize("name", ["", "a/b", "a b", "[x]", "-x", "x\ny"])
def test_invalid_names_are_errors(cli: Run, store: Path, name: str) -> None:
    assert "cannot be named" in cli("model", "add", "--base", "bundled:demo", "--", name, code=1).stderr
    assert not store.exists()


def test_config_without_a_model_type_is_an_error(workspace_folder: Path, cli: Run) -> None:
    shutil.copytree(BUNDLED, workspace_folder / "copy")
    (workspace_folder / "copy" / "config.json").write_text("{}")
    error = cli("model", "add", "custom", "--base", "copy", code=1).stderr
    assert "is not recognised by transformers (no model_type)" in error


def test_old_vectors_of_a_changed_job_are_not_ranked(workspace_folder: Path, cli: Run) -> None:
    cli("ingest", "csv", _table(workspace_folder))
    job(workspace_folder, "custom", '[model]\nbase = "bundled:demo"\n')
    cli("embed", "--model", "custom", "--only", "captions")
    job(workspace_folder, "custom", '[model]\nbase = "bundled:demo"\nclean = true\n')
    assert "has changed since it was embedded" in cli("eval", "--model", "custom", "--split", "t/all", code=1).stderr


def test_prompt_and_cleaning_determine_the_encoded_text(
    workspace_folder: Path, cli: Run, cli_json: Callable[..., Any]
) -> None:
    cli("ingest", "csv", _table(workspace_folder))
    job(workspace_folder, "custom", '[model]\nbase = "bundled:demo"\nprompt = "a photo of {}."\nclean = true\n')
    cli("embed", "--model", "custom", "--only", "captions")
    rows = cli_json(
        "sql",
        "SELECT captions.text AS caption, items.text AS model_text FROM caption_items AS items "
        "JOIN captions USING (caption_id) JOIN models USING (model_id) WHERE models.name = 'custom'",
    )
    assert rows == [{"caption": "A  Dog! (Rex)", "model_text": "a photo of a dog rex."}]


def _table(workspace_folder: Path) -> Path:
    file = workspace_folder / "t.csv"
    file.write_text("image_path,caption\na.jpg,A  Dog! (Rex)\n")
    return file
