"""Stored vectors stay those of their model: probes, stores that are moved, and stores that an older clipstore made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner, Result
from clip_folder import build_lora, edit_json

import clipstore
from clipstore.cli import main
from clipstore.encoders.fingerprint import describe
from clipstore.encoders.fingerprint_v1 import v1_fingerprints
from clipstore.encoders.model_files import locate
from clipstore.records import Model

Run = Callable[..., Result]
Json = Callable[..., Any]


class Place(NamedTuple):
    """A store, and the folder of the model "mine" that it has embedded in fp32."""

    store: Path
    base: Path


def build(root: Path, scenes: Path) -> Place:
    place = Place(root / "store", root / "clip")
    shutil.copytree(locate("bundled:demo"), place.base)
    for words in (
        ("ingest", "coco", str(shutil.copytree(scenes, root / "scenes"))),
        ("model", "add", "mine", "--base", str(place.base)),
        ("embed", "--model", "mine", "--precision", "fp32"),
    ):
        result = CliRunner(env={"CLIPSTORE_STORE": str(place.store)}).invoke(main, words)
        assert result.exit_code == 0, result.output
    return place


@pytest.fixture(scope="module")
def built(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return build(tmp_path_factory.mktemp("built"), scenes)


@pytest.fixture
def embedded(built: Place, store: Path) -> Path:
    """This test's own copy of the store."""
    return Path(shutil.copytree(built.store, store))


@pytest.fixture
def base(built: Place) -> Path:
    """The model that the store has embedded; not to be changed."""
    return built.base


def change(store: Path, *statements: str) -> None:
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        for statement in statements:
            connection.execute(statement)


def towers(cli_json: Json) -> dict[str, tuple[int, int]]:
    """By tower of "mine", embedded again: how many items were done, and how many reused."""
    rows = cli_json("embed", "--model", "mine")["embedded"]
    return {row["tower"]: (row["done"], row["reused"]) for row in rows}


NOTHING_DONE = {"image": (0, 24), "text": (0, 120)}

# Captions lose their vectors, so that the model is loaded again.
OF_TEXTS = "WHERE fingerprint IN (SELECT fingerprint FROM towers WHERE tower = 'text')"
FORGET_TEXTS = f"DELETE FROM vectors {OF_TEXTS}"


def test_each_tower_and_the_backbone_get_a_probe_once(embedded: Path, cli_json: Json, cli: Run) -> None:
    cli("embed", "--model", "mine", "--retry-failed")
    rows = cli_json("sql", "SELECT fingerprint, device, len(vector) AS dim FROM probes ORDER BY dim")
    assert [(row["device"], row["dim"]) for row in rows] == [("cpu", 64), ("cpu", 64), ("cpu", 128)]
    assert len({row["fingerprint"] for row in rows}) == 3


def test_other_vectors_under_an_equal_fingerprint_are_an_error(embedded: Path, cli: Run) -> None:
    change(embedded, FORGET_TEXTS, "UPDATE probes SET vector = list_reverse(vector), software = 'torch 1.0'")
    said = cli("embed", "--model", "mine", code=1).stderr
    assert "differ from those stored under its fingerprint" in said
    assert "they were made on cpu with torch 1.0, this is cpu with torch 2" in said


def test_a_query_is_not_encoded_by_a_model_that_gives_other_vectors(embedded: Path, cli: Run) -> None:
    change(embedded, "UPDATE probes SET vector = list_transform(vector, lambda x: -x)")
    said = cli("retrieve", "a text of no caption", "--model", "mine", "--split", "coco/val", code=1).stderr
    assert "cosine -1.00000 for the probe" in said


NEGATED = "UPDATE probes SET vector = list_transform(vector, lambda x: -x)"


def test_a_model_that_gives_other_vectors_is_not_exported(embedded: Path, cli: Run, tmp_path: Path) -> None:
    words = ("export", "model", "mine", tmp_path / "out", "--merged")
    cli(*words)
    shutil.rmtree(tmp_path / "out")
    change(embedded, NEGATED)
    assert "cosine -1.00000 for the probe" in cli(*words, code=1).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_base_that_gives_other_vectors_is_not_trained(
    precision: str, embedded: Path, base: Path, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the base is embedded already, so that embed does not load it; training itself computes in fp32."""
    cli("split", "g", "--from", "coco/val", "--validation", "0.25")
    cli("embed", "--model", "mine", "--precision", precision)
    (tmp_path / "jobs").mkdir()
    text = f'[model]\nbase = "{base}"\n[train]\nsplit = "g/train"\nvalidation = "g/val"\nepochs = 1\n'
    (tmp_path / "jobs/tuned.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    cli("train", "--model", "tuned")
    change(embedded, NEGATED)
    said = cli("train", "--model", "tuned", "--restart", code=1).stderr
    assert "differ from those stored" in said
    assert "(cosine -" in said


@pytest.mark.parametrize("value", ["0", "'nan'::FLOAT", "'inf'::FLOAT"])
def test_a_probe_without_a_direction_is_another_vector(value: str, embedded: Path, cli: Run) -> None:
    change(embedded, FORGET_TEXTS, f"UPDATE probes SET vector = list_transform(vector, lambda x: {value})")
    assert "differ from those stored" in cli("embed", "--model", "mine", code=1).stderr


def test_a_difference_below_the_bound_is_none(embedded: Path, cli_json: Json) -> None:
    change(embedded, FORGET_TEXTS, "UPDATE probes SET vector = list_transform(vector, lambda x: x * 1.0001)")
    assert towers(cli_json)["text"] == (120, 0)


# Moved and copied


def test_a_moved_store_and_a_moved_base_change_nothing(scenes: Path, tmp_path: Path, cli: Run, cli_json: Json) -> None:
    place = build(tmp_path, scenes)
    measure = ("eval", "--model", "mine", "--split", "coco/val")
    before = cli_json(*measure)["evaluations"][0]["metrics"]
    copy = Path(shutil.copytree(place.store, tmp_path / "copy"))
    for file in place.base.iterdir():
        file.touch()
    assert cli_json(*measure, "--store", copy)["evaluations"][0]["metrics"] == before
    assert towers(cli_json) == NOTHING_DONE
    gone = place.base.rename(tmp_path / "gone")
    assert cli_json(*measure, "--store", copy)["evaluations"][0]["metrics"] == before
    shutil.copytree(gone, place.base)
    config = json.loads((place.base / "config.json").read_text())
    edit_json(place.base / "config.json", text_config_dict=config["text_config"] | {"hidden_act": "relu"})
    assert "has changed since" in cli(*measure, code=1).stderr


def test_a_trained_model_of_a_moved_store_is_the_same(
    embedded: Path, base: Path, tmp_path: Path, cli: Run, cli_json: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job's adapter lies in the store: where the store lies is no part of what the model is."""
    build_lora(base, embedded / "adapters/tuned/best", targets=r"text_model.*\.q_proj")
    (tmp_path / "jobs").mkdir()
    text = f'[model]\nbase = "{base}"\n[train]\nsplit = "coco/val"\nvalidation = "coco/val"\n'
    (tmp_path / "jobs/tuned.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    cli("embed", "--model", "tuned")
    moved = embedded.rename(tmp_path / "moved")
    assert cli_json("eval", "--model", "tuned", "--split", "coco/val", "--store", moved)["evaluations"]
    rows = cli_json("embed", "--model", "tuned", "--store", moved)["embedded"]
    assert [(row["done"], row["reused"]) for row in rows] == [(0, 24), (0, 120)]
    copy = Path(shutil.copytree(moved, tmp_path / "copy"))
    (tmp_path / "jobs/tuned.toml").unlink()
    shown = cli_json("model", "show", "tuned", "--store", copy)
    assert shown["adapter"] == str(copy / "adapters/tuned/best")
    assert cli_json("eval", "--model", "tuned", "--split", "coco/val", "--store", copy)["evaluations"]


# Stores of an older clipstore


def former_names(base: Path) -> dict[str, str]:
    """What the first scheme calls what today's fingerprints name."""
    model = Model(name="mine", family="clip", base=str(base))
    image, text = describe(model, "fp32")
    former = v1_fingerprints(model, "fp32")
    assert former.keys() == {"image", "backbone", "text"}
    own = {"image": image.fingerprint, "backbone": str(image.backbone), "text": text.fingerprint}
    return {own[part]: former[part] for part in own}


@pytest.fixture
def old(embedded: Path, base: Path) -> Path:
    """The store as the first scheme had it: other fingerprints, and no probes."""
    for name, former in former_names(base).items():
        renamed = f"SET fingerprint = '{former}'"
        change(
            embedded,
            f"UPDATE vectors {renamed} WHERE fingerprint = '{name}'",
            f"UPDATE shards {renamed}, file = replace(file, '{name}', '{former}') WHERE fingerprint = '{name}'",
            f"UPDATE towers {renamed}, files_key = 'old' WHERE fingerprint = '{name}'",
            f"UPDATE towers SET backbone = '{former}' WHERE backbone = '{name}'",
        )
        (embedded / "shards" / name).rename(embedded / "shards" / former)
    change(embedded, "DROP TABLE probes", "UPDATE store_format SET schema_digest = 'old'")
    return embedded


def test_an_old_store_keeps_its_vectors_once_a_few_are_made_again(
    old: Path, base: Path, cli: Run, cli_json: Json
) -> None:
    cli("eval", "--model", "mine", "--split", "coco/val")
    assert towers(cli_json) == NOTHING_DONE
    names = {row["fingerprint"] for row in cli_json("sql", "SELECT fingerprint FROM probes")}
    assert names == set(former_names(base).values())
    assert towers(cli_json) == NOTHING_DONE


def test_vectors_of_an_old_store_that_another_model_made_are_made_anew(
    old: Path, base: Path, cli: Run, cli_json: Json
) -> None:
    ids, before = clipstore.open(old).vectors("mine", "coco/val", "captions")
    change(
        old,
        "UPDATE vectors SET row = 119 - row WHERE fingerprint IN (SELECT fingerprint FROM towers WHERE tower = 'text')",
    )
    assert towers(cli_json) == {"image": (0, 24), "text": (120, 0)}
    again, after = clipstore.open(old).vectors("mine", "coco/val", "captions")
    assert list(again) == list(ids)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert towers(cli_json) == NOTHING_DONE
