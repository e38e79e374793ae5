"""Stored vectors are those of their model: probes, moved stores, and stores of an earlier version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from clip_folder import build_lora, edit_json

import clipstore
from clipstore.cli import main
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.fingerprint_v1 import v1_fingerprints
from clipstore.encoders.locate import locate
from clipstore.records import Model

Run = Callable[..., Result]
RunJson = Callable[..., Any]


class EmbeddedBase(NamedTuple):
    """A store, and the folder of the model "base" that it has embedded in fp32."""

    store: Path
    base: Path


def build(root: Path, scenes: Path) -> EmbeddedBase:
    target = EmbeddedBase(root / "store", root / "clip")
    shutil.copytree(locate("bundled:demo"), target.base)
    for words in (
        ("ingest", "coco", str(shutil.copytree(scenes, root / "scenes"))),
        ("model", "add", "base", "--base", str(target.base)),
        ("embed", "--model", "base", "--precision", "fp32"),
    ):
        result = CliRunner(env={"CLIPSTORE_STORE": str(target.store)}).invoke(main, words)
        assert result.exit_code == 0, result.output
    return target


@pytest.fixture(scope="module")
def shared(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedBase:
    return build(tmp_path_factory.mktemp("target"), scenes)


@pytest.fixture
def embedded(shared: EmbeddedBase, store: Path) -> Path:
    """This test's own copy of the store."""
    return Path(shutil.copytree(shared.store, store))


@pytest.fixture
def base(shared: EmbeddedBase) -> Path:
    """The folder of the embedded model. Do not change it."""
    return shared.base


def run_sql(store: Path, *statements: str) -> None:
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        for statement in statements:
            connection.execute(statement)


def embed_again(cli_json: RunJson) -> dict[str, tuple[int, int]]:
    """Embed "base" again; by tower, the numbers of items that were embedded and reused."""
    rows = cli_json("embed", "--model", "base")["embedded"]
    return {row["tower"]: (row["done"], row["reused"]) for row in rows}


NOTHING_DONE = {"image": (0, 24), "text": (0, 120)}

# Deletes the captions' vectors, so that the model is loaded again.
OF_TEXTS = "WHERE fingerprint IN (SELECT fingerprint FROM towers WHERE tower = 'text')"
DELETE_TEXTS = f"DELETE FROM vectors {OF_TEXTS}"


def test_each_tower_and_the_backbone_get_a_probe_once(embedded: Path, cli_json: RunJson, cli: Run) -> None:
    cli("embed", "--model", "base", "--retry-failed")
    rows = cli_json("sql", "SELECT fingerprint, device, len(vector) AS dim FROM probes ORDER BY dim")
    assert [(row["device"], row["dim"]) for row in rows] == [("cpu", 64), ("cpu", 64), ("cpu", 128)]
    assert len({row["fingerprint"] for row in rows}) == 3


def test_other_vectors_under_an_equal_fingerprint_are_an_error(embedded: Path, cli: Run) -> None:
    run_sql(embedded, DELETE_TEXTS, "UPDATE probes SET vector = list_reverse(vector), software = 'torch 1.0'")
    error = cli("embed", "--model", "base", code=1).stderr
    assert "differ from those stored under its fingerprint" in error
    assert "computed on cpu with torch 1.0; this run uses cpu with torch 2" in error


def test_a_query_is_not_encoded_by_a_model_with_other_vectors(embedded: Path, cli: Run) -> None:
    run_sql(embedded, "UPDATE probes SET vector = list_transform(vector, lambda x: -x)")
    error = cli("retrieve", "a text of no caption", "--model", "base", "--split", "coco/val", code=1).stderr
    assert "cosine -1.00000 for the probe" in error


NEGATE = "UPDATE probes SET vector = list_transform(vector, lambda x: -x)"


def test_a_model_with_other_vectors_is_not_exported(embedded: Path, cli: Run, tmp_path: Path) -> None:
    words = ("export", "model", "base", tmp_path / "out", "--merged")
    cli(*words)
    shutil.rmtree(tmp_path / "out")
    run_sql(embedded, NEGATE)
    assert "cosine -1.00000 for the probe" in cli(*words, code=1).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(name, marks=pytest.mark.full) for name in ("bf16", "fp16"))]
)
def test_a_base_with_other_vectors_is_not_trained(
    precision: str, embedded: Path, base: Path, cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base is embedded already, so that embed does not load it; training computes in fp32."""
    cli("split", "g", "--from", "coco/val", "--validation", "0.25")
    cli("embed", "--model", "base", "--precision", precision)
    (tmp_path / "jobs").mkdir()
    text = f'[model]\nbase = "{base}"\n[train]\nsplit = "g/train"\nvalidation = "g/val"\nepochs = 1\n'
    (tmp_path / "jobs/tuned.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    cli("train", "--model", "tuned")
    run_sql(embedded, NEGATE)
    error = cli("train", "--model", "tuned", "--restart", code=1).stderr
    assert "differ from those stored" in error
    assert "(cosine -" in error


@pytest.mark.parametrize("value", ["0", "'nan'::FLOAT", "'inf'::FLOAT"])
def test_zero_and_non_finite_probes_are_other_vectors(value: str, embedded: Path, cli: Run) -> None:
    run_sql(embedded, DELETE_TEXTS, f"UPDATE probes SET vector = list_transform(vector, lambda x: {value})")
    assert "differ from those stored" in cli("embed", "--model", "base", code=1).stderr


def test_a_difference_below_the_tolerance_is_accepted(embedded: Path, cli_json: RunJson) -> None:
    run_sql(embedded, DELETE_TEXTS, "UPDATE probes SET vector = list_transform(vector, lambda x: x * 1.0001)")
    assert embed_again(cli_json)["text"] == (120, 0)


# ---- moved and copied stores ----


def test_a_moved_store_and_a_moved_base_change_nothing(
    scenes: Path, tmp_path: Path, cli: Run, cli_json: RunJson
) -> None:
    target = build(tmp_path, scenes)
    evaluate = ("eval", "--model", "base", "--split", "coco/val")
    before = cli_json(*evaluate)["evaluations"][0]["metrics"]
    copy = Path(shutil.copytree(target.store, tmp_path / "copy"))
    for file in target.base.iterdir():
        file.touch()
    assert cli_json(*evaluate, "--store", copy)["evaluations"][0]["metrics"] == before
    assert embed_again(cli_json) == NOTHING_DONE
    moved = target.base.rename(tmp_path / "moved")
    assert cli_json(*evaluate, "--store", copy)["evaluations"][0]["metrics"] == before
    shutil.copytree(moved, target.base)
    config = json.loads((target.base / "config.json").read_text())
    edit_json(target.base / "config.json", text_config_dict=config["text_config"] | {"hidden_act": "relu"})
    assert "has changed since" in cli(*evaluate, code=1).stderr


def test_a_trained_model_of_a_moved_store_is_the_same(
    embedded: Path, base: Path, tmp_path: Path, cli: Run, cli_json: RunJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter of a job is in the store; the path of the store is no part of the model."""
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
    model = cli_json("model", "show", "tuned", "--store", copy)
    assert model["adapter"] == str(copy / "adapters/tuned/best")
    assert cli_json("eval", "--model", "tuned", "--split", "coco/val", "--store", copy)["evaluations"]


# ---- stores of an earlier version ----


def former_fingerprints(base: Path) -> dict[str, str]:
    """By current fingerprint, the fingerprint of the first scheme."""
    model = Model(name="base", family="clip", base=str(base))
    image, text = fingerprint_towers(model, "fp32")
    former = v1_fingerprints(model, "fp32")
    assert former.keys() == {"image", "backbone", "text"}
    current = {"image": image.fingerprint, "backbone": str(image.backbone), "text": text.fingerprint}
    return {current[part]: former[part] for part in current}


@pytest.fixture
def old_store(embedded: Path, base: Path) -> Path:
    """The store as an earlier version left it: fingerprints of the first scheme, and no probes."""
    for name, former in former_fingerprints(base).items():
        renamed = f"SET fingerprint = '{former}'"
        run_sql(
            embedded,
            f"UPDATE vectors {renamed} WHERE fingerprint = '{name}'",
            f"UPDATE shards {renamed}, file = replace(file, '{name}', '{former}') WHERE fingerprint = '{name}'",
            f"UPDATE towers {renamed}, files_key = 'old' WHERE fingerprint = '{name}'",
            f"UPDATE towers SET backbone = '{former}' WHERE backbone = '{name}'",
        )
        (embedded / "shards" / name).rename(embedded / "shards" / former)
        for shard in (embedded / "shards" / former).iterdir():
            with h5py.File(shard, "r+") as file:
                file.attrs["fingerprint"] = np.bytes_(former.encode())
    run_sql(
        embedded, "DROP TABLE probes", "DROP TABLE shard_checksums", "UPDATE store_format SET schema_digest = 'old'"
    )
    return embedded


def test_vectors_of_an_old_store_are_reused_once_a_sample_is_verified(
    old_store: Path, base: Path, cli: Run, cli_json: RunJson
) -> None:
    cli("eval", "--model", "base", "--split", "coco/val")
    assert embed_again(cli_json) == NOTHING_DONE
    names = {row["fingerprint"] for row in cli_json("sql", "SELECT fingerprint FROM probes")}
    assert names == set(former_fingerprints(base).values())
    assert embed_again(cli_json) == NOTHING_DONE


def test_vectors_of_an_old_store_that_differ_are_recomputed(
    old_store: Path, base: Path, cli: Run, cli_json: RunJson
) -> None:
    ids, before = clipstore.open(old_store).vectors("base", "coco/val", "captions")
    run_sql(
        old_store,
        "UPDATE vectors SET row = 119 - row WHERE fingerprint IN (SELECT fingerprint FROM towers WHERE tower = 'text')",
    )
    assert embed_again(cli_json) == {"image": (0, 24), "text": (120, 0)}
    again, after = clipstore.open(old_store).vectors("base", "coco/val", "captions")
    assert list(again) == list(ids)
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert embed_again(cli_json) == NOTHING_DONE
