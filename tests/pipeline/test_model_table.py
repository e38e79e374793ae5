"""`model list` and `model show --split`: sizes of models, shared towers, stored vectors, and the cost of a split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from family_folders import SMALL
from helpers import Trained, import_vectors, query_rows

from clipstore.encoders.description import count_parameters, describe_base
from clipstore.encoders.families import recognise
from clipstore.encoders.loading import load_model
from clipstore.records import Model

Run = Callable[..., Result]
Json = Callable[..., Any]
SPLIT = "coco/val"


def listed(cli_json: Json, *words: str) -> dict[str, Any]:
    return {row["name"]: row for row in cli_json("model", "list", *words)["models"]}


# ---- the files of a model ----


def test_parameters_are_those_of_transformers(small_clip: Path) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(small_clip)
    described = describe_base(Model(name="m", family="clip", base=str(small_clip)))
    assert described.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (described.input_size, described.dim) == (model.config.vision_config.image_size, model.config.projection_dim)


def test_the_size_of_the_bundled_model() -> None:
    described = describe_base(Model(name="m", family="clip", base="bundled:demo"))
    assert (described.parameters, described.input_size, described.dim) == (1_820_929, 64, 64)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_the_parameters_of_an_adapter_are_those_of_peft(trained: Trained, cli_json: Json) -> None:
    from peft import PeftModel
    from transformers import CLIPModel

    row = listed(cli_json)["tuned"]
    adapter = row["adapter"]
    base = CLIPModel.from_pretrained(Path(__file__).parents[2] / "clipstore" / "demo" / "model")
    tuned = PeftModel.from_pretrained(base, adapter)
    lora = sum(parameter.numel() for name, parameter in tuned.named_parameters() if "lora_" in name)
    heads = Path(adapter) / "heads.safetensors"
    assert row["adapter_parameters"] == lora + (count_parameters([heads]) if heads.exists() else 0)
    assert row["parameters"] == 1_820_929
    assert trained.store.is_dir()


def test_integers_are_no_parameters(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {"w": np.zeros((3, 5), np.float16), "scalar": np.zeros((), np.float32), "ids": np.zeros(7, np.int64)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert count_parameters([tmp_path / "x.safetensors"]) == 16


@pytest.mark.parametrize(
    ("name", "input_size", "dim"),
    [("openclip", 224, 32), ("siglip", 32, 32), ("siglip2", 32, 32), ("naflex", None, 32), ("blip", 32, 16)],
)
def test_the_size_of_every_family(name: str, input_size: int | None, dim: int, tmp_path: Path) -> None:
    folder = SMALL[name](tmp_path / "model")
    model = Model(name="m", family=recognise(folder, name).name, base=str(folder))
    described = describe_base(model)
    assert (described.input_size, described.dim) == (input_size, dim)
    assert described.parameters == sum(weight.numel() for weight in load_model(model).model.parameters())


# ---- model list ----


def test_rows_have_what_the_store_holds(embedded_store: Path, cli: Run, cli_json: Json) -> None:
    row = listed(cli_json)["demo"]
    counts = query_rows(embedded_store, "SELECT tower, sum(items) AS n FROM shards WHERE kind = 'vectors' GROUP BY ALL")
    assert {"image": row["images"], "text": row["captions"]} == {count["tower"]: count["n"] for count in counts}
    assert row["bytes"] == sum(file.stat().st_size for file in (embedded_store / "shards").rglob("*.h5"))
    assert row["own_bytes"] == row["bytes"]
    assert (row["failures"], row["shared_towers"]) == (0, {})
    shown = cli("model", "list").stdout
    assert "1,820,929" in shown
    assert f"{row['captions']:,}" in shown


def test_models_with_equal_towers_are_named(trained: Trained, cli: Run, cli_json: Json) -> None:
    """A text LoRA: the image tower is that of the base, which `demo` is."""
    cli("embed", "--model", "tuned")
    rows = listed(cli_json)
    towers = {
        (row["name"], row["tower"]): row["fingerprint"]
        for row in query_rows(trained.store, "SELECT name, tower, fingerprint FROM towers JOIN models USING (model_id)")
    }
    for tower in ("image", "text"):
        others = [
            name
            for name, kind in towers
            if kind == tower and name != "tuned" and towers[name, tower] == towers["tuned", tower]
        ]
        assert rows["tuned"]["shared_towers"].get(tower, []) == sorted(others)
    assert "demo" in rows["tuned"]["shared_towers"]["image"]
    assert "text" not in rows["tuned"]["shared_towers"]
    assert "tuned: its image tower is that of demo" in cli("model", "list").stdout
    assert rows["tuned"]["own_bytes"] < rows["tuned"]["bytes"]


def test_models_without_files_have_a_row_with_the_reason(
    scene_store: Path, small_clip: Path, tmp_path: Path, cli: Run, cli_json: Json
) -> None:
    base = Path(shutil.copytree(small_clip, tmp_path / "clip"))
    cli("model", "add", "gone", "--base", base)
    cli("embed", "--model", "gone")
    shutil.rmtree(base)
    row = listed(cli_json)["gone"]
    assert row["parameters"] is None
    assert str(base) in row["files_problem"]
    assert (row["images"], row["dim"]) == (24, 32)
    shown = cli("model", "list").stdout
    assert f"gone: its size is unknown: no folder {base}" in shown
    assert scene_store.is_dir()


def test_damaged_weights_are_a_reason(
    scene_store: Path, small_clip: Path, tmp_path: Path, cli: Run, cli_json: Json
) -> None:
    base = Path(shutil.copytree(small_clip, tmp_path / "clip"))
    cli("model", "add", "damaged", "--base", base)
    (base / "model.safetensors").write_bytes(b"damaged")
    assert "is not a safetensors file" in listed(cli_json)["damaged"]["files_problem"]
    assert scene_store.is_dir()


def test_without_a_store_jobs_are_listed(cli_json: Json, cli: Run) -> None:
    row = listed(cli_json)["demo"]
    assert (row["parameters"], row["images"], row["bytes"]) == (1_820_929, 0, 0)
    cli("model", "list", "--split", "a/b", code=1)


def test_imported_models_have_vectors_and_no_parameters(
    embedded_store: Path, cli: Run, cli_json: Json, sql: Json
) -> None:
    ids = {kind: [row["source_id"] for row in sql(f"SELECT source_id FROM {kind}s")] for kind in ("image", "caption")}
    vectors = [{key: [1.0, float(number)] for number, key in enumerate(ids[kind])} for kind in ("image", "caption")]
    import_vectors(embedded_store, "foreign", SPLIT, *vectors)
    row = listed(cli_json)["foreign"]
    assert (row["family"], row["parameters"], row["files_problem"], row["dim"]) == ("imported", None, None, 2)
    assert (row["images"], row["captions"]) == (24, 120)
    assert "were imported" in cli("model", "show", "foreign", "--split", SPLIT, code=1).stderr


def test_metrics_of_a_split(embedded_store: Path, cli: Run, cli_json: Json) -> None:
    cli("eval", "--model", "demo", "--split", SPLIT)
    cli("eval", "--model", "demo", "--split", SPLIT, "--protocol", "paired-rows")
    evaluations = {row["protocol"]: row for row in listed(cli_json, "--split", SPLIT)["demo"]["evaluations"]}
    assert evaluations.keys() == {"standard", "paired-rows"}
    assert listed(cli_json, "--split", SPLIT)["demo-full"]["evaluations"] == []
    shown = cli("model", "list", "--split", SPLIT).stdout
    assert f"{evaluations['standard']['metrics']['rsum']:.1f}" in shown
    assert "protocol paired-rows" in shown
    assert f"not evaluated on {SPLIT}: " in shown
    assert (
        "unknown split 'coco/vla' (did you mean 'coco/val'?)"
        in cli("model", "list", "--split", "coco/vla", code=1).stderr
    )
    assert embedded_store.is_dir()


# ---- the cost of a split ----


def cost_of(cli_json: Json, model: str, *words: str) -> dict[str, Any]:
    cost = cli_json("model", "show", model, "--split", SPLIT, *words)["embedding"]
    return cost | {row["items"]: row for row in cost["towers"]}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_are_those_that_embed_writes(scene_store: Path, cli: Run, cli_json: Json, dtype: str) -> None:
    """Also before any image file was read. The metadata of a file vary by half a kilobyte."""
    cost = cost_of(cli_json, "demo", "--store-dtype", dtype)
    assert (cost["images"]["unread"], cost["images"]["to_embed"]) == (24, 24)
    assert query_rows(scene_store, "SELECT count(content) AS n FROM images") == [{"n": 0}]
    written = {row["tower"]: row for row in cli_json("embed", "--model", "demo", "--store-dtype", dtype)["embedded"]}
    assert cost["images"]["bytes"] == pytest.approx(written["image"]["size"], rel=0.05)
    assert cost["captions"]["bytes"] == pytest.approx(written["text"]["size"], rel=0.02)
    assert cost["captions"]["to_embed"] == written["text"]["done"]
    size = sum(file.stat().st_size for file in (scene_store / "shards").rglob("*.h5"))
    assert cost["bytes"] == pytest.approx(size, rel=0.03)
    after = cost_of(cli_json, "demo", "--store-dtype", dtype)
    assert (after["bytes"], after["images"]["stored"], after["images"]["to_embed"]) == (0, 24, 0)
    assert "already embedded" in cli("model", "show", "demo", "--split", SPLIT).stdout


def test_the_tower_of_another_model_costs_nothing(trained: Trained, cli_json: Json) -> None:
    """A text LoRA: its image tower is that of the base, which was embedded."""
    cost = cli_json("model", "show", "tuned", "--split", "t/val")["embedding"]
    written = cli_json("embed", "--model", "tuned", "--split", "t/val")["embedded"]
    assert [row["bytes"] for row in cost["towers"]] == [pytest.approx(row["size"], rel=0.05) for row in written]
    assert cost["towers"][0]["bytes"] == 0
    assert trained.store.is_dir()


def test_a_measured_time_is_that_of_embedding(scene_store: Path, cli: Run, cli_json: Json) -> None:
    cost = cost_of(cli_json, "demo", "--measure")
    assert (cost["images"]["sample"], cost["captions"]["sample"]) == (24, cost["captions"]["to_embed"])
    assert 0 < cost["images"]["seconds"] < 60
    assert 0 < cost["captions"]["seconds"] < 60
    assert cost["seconds"] == pytest.approx(cost["images"]["seconds"] + cost["captions"]["seconds"])
    assert query_rows(scene_store, "SELECT count(*) AS n FROM models") == [{"n": 0}]
    assert not list((scene_store / "shards").rglob("*.h5"))
    shown = cli("model", "show", "demo", "--split", SPLIT, "--measure").stdout
    assert "by the median of three runs over 24 images" in shown
    assert "not measured" in cli("model", "show", "demo", "--split", SPLIT).stdout


def test_unreadable_files_are_not_measured(scene_store: Path, scene_files: Path, cli_json: Json) -> None:
    files = sorted((scene_files / "val").iterdir())
    files[0].write_bytes(b"no image")
    for file in files[1:20]:
        file.unlink()
    cost = cost_of(cli_json, "demo", "--measure")
    assert (cost["images"]["to_embed"], cost["images"]["sample"]) == (24, 4)
    assert scene_store.is_dir()


def test_wrong_words(scene_store: Path, cli: Run, small_clip: Path, tmp_path: Path) -> None:
    assert "--split" in cli("model", "show", "demo", "--measure", code=1).stderr
    assert "unknown split" in cli("model", "show", "demo", "--split", "coco/no", code=1).stderr
    base = Path(shutil.copytree(small_clip, tmp_path / "clip"))
    cli("model", "add", "gone", "--base", base)
    shutil.rmtree(base)
    assert f"no folder {base}" in cli("model", "show", "gone", "--split", SPLIT, code=1).stderr
    assert json.loads(cli("model", "show", "gone", "--json").stdout)["name"] == "gone"
    assert scene_store.is_dir()
