"""The commands with models of every family: one pass, reuse, training, export, comparison."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_reader import CountingReader
from family_folders import SMALL
from helpers import stored_vectors

from clipstore.pipeline.embed.options import EmbedOptions
from clipstore.pipeline.embed.run import embed
from clipstore.store.layout import Store

Run = Callable[..., Any]

FAMILY = {"openclip": "openclip", "siglip": "siglip", "siglip2": "siglip", "naflex": "siglip", "blip": "blip"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: write(root / name) for name, write in SMALL.items()}


@pytest.fixture
def models(folders: dict[str, Path], scene_store: Path, cli: Run) -> list[str]:
    """All families, recorded in the scenes' store; the family is recognised."""
    for name, folder in folders.items():
        cli("model", "add", name, "--base", folder)
    return list(folders)


def test_one_pass_decodes_each_image_once_for_all_families(
    models: list[str], scene_store: Path, cli: Run, cli_json: Callable[..., Any]
) -> None:
    assert {name: cli_json("model", "show", name)["family"] for name in models} == FAMILY
    reader = CountingReader()
    summaries = embed(Store(scene_store), ["demo", *models], EmbedOptions(precision="fp32", read=reader))
    assert set(reader.reads.values()) == {2}  # once for the content key, once to decode
    done = {summary.model: summary.done for summary in summaries if summary.tower == "image"}
    assert done == dict.fromkeys(["demo", *models], 24) | {"siglip2": 0}  # siglip and siglip2 have one image tower
    again = cli_json("embed", "--precision", "fp32", *(word for name in models for word in ("--model", name)))
    assert {row["done"] for row in again["embedded"]} == {0}
    evaluations = cli_json("eval", "--split", "coco/val")["evaluations"]
    assert {row["model"] for row in evaluations} == {"demo", *models}
    compared = cli_json("compare", "demo", *models, "--split", "coco/val")
    assert [row["model"] for row in compared["models"]] == models
    page = scene_store.parent / "report.html"
    cli("report", "--split", "coco/val", "--map", "none", "--out", page)
    assert all(name in page.read_text() for name in models)


def test_only_image_towers_with_a_head_have_features(
    models: list[str], scene_store: Path, cli: Run, cli_json: Callable[..., Any]
) -> None:
    expected = {
        name: cli_json("model", "show", name, "--split", "coco/val")["embedding"]["towers"][0]["bytes"]
        for name in ("siglip", "blip")
    }
    written = cli_json("embed", "--model", "siglip", "--model", "blip", "--only", "images")["embedded"]
    assert {row["model"]: row["size"] for row in written} == pytest.approx(expected, rel=0.1)
    kinds = cli_json("sql", "SELECT kind, count(*) AS shards FROM shards GROUP BY kind ORDER BY kind")
    assert kinds == [{"kind": "features", "shards": 1}, {"kind": "vectors", "shards": 2}]
    dry = cli_json("embed", "--model", "siglip", "--dry-run", "--only", "images")["embedded"]
    assert [(row["planned"], row["reused"]) for row in dry] == [(0, 24)]
    cli("verify")


@pytest.mark.parametrize(("name", "modules"), [("openclip", None), ("siglip", None), ("blip", ["query", "value"])])
def test_every_family_can_be_trained_and_exported(
    name: str, modules: list[str] | None, folders: dict[str, Path], workspace: Path, cli: Run, store: Path
) -> None:
    lora = f"[train.lora]\nmodules = {json.dumps(modules)}\n" if modules else ""
    (workspace / "jobs/tuned.toml").write_text(
        f'[model]\nfamily = "{name}"\nbase = "{folders[name]}"\nprompt = "A scene: {{}}"\n'
        '[train]\nsplit = "t/train"\nvalidation = "t/val"\nepochs = 2\nlearning_rate = 0.01\nheads = true\n'
        f'watch = "rsum"\n{lora}'
    )
    trained = cli("train", "--model", "tuned")
    assert "trained on 18 images" in trained.stdout
    cli("embed", "--model", "tuned", "--split", "t/val", "--precision", "fp32")
    cli("export", "model", "tuned", workspace / "merged", "--merged")
    (workspace / "jobs/merged.toml").write_text(
        f'[model]\nfamily = "{"clip" if name == "openclip" else name}"\nbase = "{workspace / "merged"}"\n'
        'prompt = "A scene: {}"\n'
    )
    cli("embed", "--model", "merged", "--split", "t/val", "--precision", "fp32")
    for items in ("images", "captions"):
        tuned, merged = (stored_vectors(store, items, model=model, split="t/val") for model in ("tuned", "merged"))
        np.testing.assert_allclose(tuned, merged, atol=1e-5)


def test_a_family_without_a_temperature_does_not_train_one(folders: dict[str, Path], workspace: Path, cli: Run) -> None:
    (workspace / "jobs/tuned.toml").write_text(
        f'[model]\nfamily = "blip"\nbase = "{folders["blip"]}"\n[train]\nsplit = "t/train"\nvalidation = "t/val"\n'
        'temperature = "trained"\n[train.lora]\nmodules = ["query"]\n'
    )
    assert "a BLIP model has none" in cli("train", "--model", "tuned", code=1).stderr


def test_the_family_of_a_job_is_checked(folders: dict[str, Path], workspace: Path, cli: Run) -> None:
    (workspace / "jobs/wrong.toml").write_text(f'[model]\nfamily = "clip"\nbase = "{folders["siglip"]}"\n')
    error = cli("embed", "--model", "wrong", code=1).stderr
    assert "is a SigLIP model, and not of the family 'clip': set the family 'siglip'" in error


def test_queries_are_encoded_by_the_recipe(models: list[str], cli: Run, cli_json: Callable[..., Any]) -> None:
    """An upper-case query has the vector of the lower-case caption."""
    cli("embed", "--model", "siglip2", "--precision", "fp32")
    both = cli_json("retrieve", "A Red CIRCLE", "a red circle", "--model", "siglip2", "--split", "coco/val")["queries"]
    first, second = ([hit["score"] for hit in query["answers"][0]["hits"]] for query in both)
    np.testing.assert_allclose(first, second, atol=1e-6)
