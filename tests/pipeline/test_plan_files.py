"""Plan files: encoded by any number of processes in any order, the vectors are those of one `embed`."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from clip_folder import build_headed_lora, edit_json
from helpers import command_line, query_rows, run_command, stored_vectors

from clipstore.inference.manifests import read_manifest
from clipstore.inference.plan_files import INDEX, Index, Plan, read_file, write_file
from clipstore.pipeline.embed import plan as embed_plan

Run = Callable[..., Any]
ITEMS = 7  # of a plan: 24 images make four, 120 captions make up to 18


@pytest.fixture
def dataset(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "scenes"))


@pytest.fixture
def planned(cli: Run, dataset: Path, tmp_path: Path) -> Path:
    """The plans of the scenes for the bundled model."""
    cli("ingest", "coco", dataset)
    cli("plan", "--model", "demo", "--items", ITEMS, "--out", tmp_path / "plans")
    return tmp_path / "plans"


def plan_files(plans: Path) -> list[Path]:
    return [plans / entry.file for entry in read_file(plans / INDEX, "plan-index", Index)[0].plans]


def shard_bytes(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in (store / "shards").rglob("*.h5")}


def start_encode(*words: object) -> subprocess.Popen[str]:
    process = command_line("encode", *words, "--json")
    return subprocess.Popen(process, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def result_of(process: subprocess.Popen[str]) -> Any:
    """What a process printed as JSON; it must succeed."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return json.loads(output)


def test_several_processes_encode_each_plan_once_and_give_the_bytes_of_embed(
    planned: Path, cli: Run, cli_json: Run, store: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = plan_files(planned)
    half = files[::2]
    # Two processes have the same plans at once, in opposite orders. Two tasks of an array have all plans, one after the
    # other; tests/cluster/test_slurm.py runs an array's tasks at once.
    first = [start_encode(*half), start_encode(*reversed(half))]
    results = [result_of(process)["encoded"] for process in first]
    assert sum(row["encoded"] for rows in results for row in rows) == len(half)
    registered = cli_json("register", planned)
    assert (registered["registered"], registered["missing"]) == (len(half), [file.name for file in files[1::2]])
    second = [cli_json("encode", planned, "--task", task, "--tasks", 2)["encoded"] for task in range(2)]
    rows = [row for rows in second for row in rows]
    assert (sum(row["encoded"] for row in rows), len(rows)) == (len(files) - len(half), len(files))
    registered = cli_json("register", planned)
    assert (registered["registered"], registered["before"]) == (len(files) - len(half), len(half))
    assert registered["missing"] == registered["problems"] == []

    monkeypatch.setattr(embed_plan, "ITEMS_PER_SHARD", {"image": ITEMS, "text": ITEMS})
    other = tmp_path / "other"
    run_command(other, "ingest", "coco", dataset)
    run_command(other, "embed", "--model", "demo")
    assert shard_bytes(store) == shard_bytes(other)
    twice = "SELECT fingerprint, content FROM vectors GROUP BY ALL HAVING count(*) > 1"
    assert query_rows(store, twice) == []
    assert (cli_json("embed", "--model", "demo")["embedded"][0])["planned"] == 0
    evaluations = [
        json.loads(run_command(place, "eval", "--split", "coco/val", "--json").stdout) for place in (store, other)
    ]
    metrics, expected = (result["evaluations"][0]["metrics"] for result in evaluations)
    assert metrics == expected


def test_two_processes_register_at_once(planned: Path, cli: Run, cli_json: Run, store: Path) -> None:
    cli("encode", planned)
    words = command_line("register", planned, "--store", store, "--json")
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [result_of(process) for process in both]
    assert all(result["registered"] + result["before"] == len(plan_files(planned)) for result in results)
    assert query_rows(store, "SELECT file FROM shards GROUP BY ALL HAVING count(*) > 1") == []
    assert query_rows(store, "SELECT content FROM vectors GROUP BY fingerprint, content HAVING count(*) > 1") == []
    assert len(stored_vectors(store, "images")) == 24
    assert cli_json("verify")["problems"] == []


def test_planning_again_gives_the_same_files(planned: Path, cli: Run, cli_json: Run, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in planned.glob("*.json")}
    cli("plan", "--model", "demo", "--items", ITEMS, "--out", planned)
    cli("plan", "--model", "demo", "--items", ITEMS, "--out", tmp_path / "again")
    assert {file.name: file.read_bytes() for file in planned.glob("*.json")} == before
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").glob("*.json")} == before
    error = cli("plan", "--model", "demo", "--items", ITEMS + 1, "--out", planned, code=1).stderr
    assert "has the plans of another run" in error
    assert {file.name: file.read_bytes() for file in planned.glob("*.json")} == before
    cli("embed", "--model", "demo")
    assert cli_json("plan", "--model", "demo", "--out", tmp_path / "none")["plans"] == []
    assert not (tmp_path / "none").exists()


def test_an_encode_that_is_killed_goes_on(planned: Path, cli_json: Run, store: Path) -> None:
    process = start_encode(planned)
    while not (planned / "manifests").is_dir() or not any((planned / "manifests").glob("[0-9]*.json")):
        assert process.poll() is None
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(list((planned / "manifests").glob("[0-9]*.json")))
    # A shard without its manifest, as a process leaves it that is killed between the two, is not encoded again.
    (planned / "manifests" / "000000.json").unlink()
    encoded = cli_json("encode", planned)["encoded"]
    skipped = [row["plan"] for row in encoded if not row["encoded"]]
    assert skipped == [f"{number:06}.json" for number in range(len(skipped))]
    assert done <= len(skipped) <= done + 1  # it may have been killed between a shard and its manifest
    assert cli_json("register", planned)["registered"] == len(plan_files(planned))
    assert len(stored_vectors(store, "images")) == 24


def test_images_that_fail_are_recorded_by_register(
    cli: Run, cli_json: Run, dataset: Path, store: Path, tmp_path: Path
) -> None:
    images = sorted((dataset / "val").glob("*.jpg"))
    images[3].write_bytes(images[3].read_bytes()[:50])
    cli("ingest", "coco", dataset)
    cli("plan", "--model", "demo", "--only", "images", "--out", tmp_path / "plans")
    assert cli_json("encode", tmp_path / "plans")["encoded"][0]["failed"] == 1
    assert "1 item failed" in cli("register", tmp_path / "plans", code=3).stderr
    again = cli("register", tmp_path / "plans", "--json", code=3)  # as a second embed
    assert {name: json.loads(again.stdout)[name] for name in ("before", "failed")} == {"before": 1, "failed": 1}
    assert "1 item failed" in again.stderr
    failures = json.loads(cli("query", "item_failures", "--format", "json").stdout)
    assert [Path(row["path"]).name for row in failures] == [images[3].name]
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:  # as once another plan has its vector
        connection.execute("DELETE FROM item_failures")
    assert cli_json("register", tmp_path / "plans")["failed"] == 0


def test_vectors_of_a_removed_model_are_named(planned: Path, cli: Run, cli_json: Run) -> None:
    cli("encode", planned)
    cli("model", "remove", "demo", "--yes")
    output = cli("register", planned).stdout
    assert "registered vectors of demo, which the store does not have any more" in output
    assert cli_json("register", planned)["unused"] == []
    assert [row["reused"] for row in cli_json("embed", "--model", "demo")["embedded"]] == [24, 120]


def test_models_with_one_backbone_are_planned_once(
    cli: Run, cli_json: Run, dataset: Path, small_clip: Path, tmp_path: Path, store: Path
) -> None:
    adapter = build_headed_lora(small_clip, tmp_path / "adapter")
    cli("ingest", "coco", dataset)
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "tuned", "--base", small_clip, "--adapter", adapter)
    models = ("--model", "plain", "--model", "tuned", "--only", "images")
    result = cli_json("plan", *models, "--out", tmp_path / "plans")
    assert result["deferred"] == {"tuned": 24}
    assert [entry["models"] for entry in result["plans"]] == [["plain"]]
    cli("encode", tmp_path / "plans")
    cli("register", tmp_path / "plans")
    cli("plan", *models, "--out", tmp_path / "more")
    (file,) = plan_files(tmp_path / "more")
    assert read_file(file, "plan", Plan)[0].source == "features"
    cli("encode", tmp_path / "more")
    cli("register", tmp_path / "more")
    stored = stored_vectors(store, "images", model="tuned")
    other = tmp_path / "other"
    run_command(other, "ingest", "coco", dataset)
    run_command(other, "model", "add", "tuned", "--base", small_clip, "--adapter", adapter)
    run_command(other, "embed", "--model", "tuned", "--only", "images")
    assert abs(stored - stored_vectors(other, "images", model="tuned")).max() < 1e-5


# ---- what is refused ----


def test_plans_of_another_store_are_refused(planned: Path, cli: Run, dataset: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run_command(other, "ingest", "coco", dataset)
    error = run_command(other, "register", planned, code=1).stderr
    assert "are of the store in" in error
    assert "--store" in error
    assert "of another store" in cli("encode", planned, "--store", other, code=1).stderr
    assert not (other / "shards").exists()


def test_a_moved_store_and_its_plans_are_encoded_by_name(planned: Path, cli: Run, store: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(store, tmp_path / "moved"))
    assert "does not see the store" in cli("encode", planned, code=1).stderr
    cli("encode", planned, "--store", moved)
    run_command(moved, "register", planned)
    assert len(stored_vectors(moved, "images")) == 24


def test_changed_and_older_files_are_refused(planned: Path, cli: Run) -> None:
    file = plan_files(planned)[0]
    original = file.read_text()
    file.write_text(original.replace("demo", "dem0", 1))
    assert "was changed or damaged" in cli("encode", file, code=1).stderr
    file.write_text(original.replace('"version":1', '"version":2', 1))
    assert "install a later clipstore" in cli("encode", file, code=1).stderr
    file.write_text(original[: len(original) // 2])
    assert "plan again" in cli("encode", file, code=1).stderr
    assert "name the folder of the plans" in cli("encode", planned / INDEX, code=1).stderr
    file.write_text(original)
    cli("encode", file)


def _change(file: Path, name: str, value: Any) -> None:
    """Change a value of a plan, such as "towers.0.store_dtype", as an editor would that also writes the digest."""
    plan = json.loads(file.read_bytes())["content"]
    *parents, key = (int(part) if part.isdecimal() else part for part in name.split("."))
    place = plan
    for parent in parents:
        place = place[parent]
    place[key] = value
    content = json.dumps(plan).encode()
    head = f'{{"format":"clipstore-plan","version":1,"digest":"{hashlib.sha256(content).hexdigest()}","content":'
    file.write_bytes(head.encode() + content + b"}\n")


EDITS: list[tuple[str, Any, str]] = [
    ("towers", [], "length >= 1"),
    ("towers.0.tower.backbone", "../../outside", "not a SHA-256"),
    ("towers.0.tower.backbone", "0" * 64, "image backbone"),
    ("towers.0.tower.backbone", None, "image backbone"),
    ("towers.0.tower.fingerprint", "../../outside", "not a SHA-256"),
    ("towers.0.tower.features_dim", 10**15, "in the plan: use the same"),
    ("towers.0.tower.tower", "text", "another source"),
    ("towers.0.store_dtype", "int8", "store_dtype"),
    ("towers.0.items", [0, 99], "not numbers of items"),
    ("towers.0.items", [-1], ">= 0"),
    ("towers.0.items", [], "not numbers of items"),
    ("towers.0.probes.other", {"vector": [1.0], "device": "cpu", "software": ""}, "has no other"),
    ("contents", ["0" * 64] * ITEMS, "twice"),
    ("contents", [], "length >= 1"),
    ("sources", [], "sources"),
    ("sources.0", "a\0b", "null character"),
    ("sizes", [], "sizes"),
    ("sizes.0", -1, ">= 0"),
    ("rows", [-1], ">= 0"),
    ("source", "texts", "sizes"),
    ("shards", {"../outside.h5": {}}, "required field"),
    ("shards_url", "file:///tmp", "not a URL"),
    ("memory", 0, ">= 1"),
]


def test_edited_plans_are_refused(planned: Path, cli: Run, store: Path, tmp_path: Path) -> None:
    file = plan_files(planned)[0]
    original = file.read_bytes()
    for name, value, reason in EDITS:
        file.write_bytes(original)
        _change(file, name, value)
        error = cli("encode", file, code=1).stderr
        assert reason in error, name
        assert len(error.splitlines()) == 1
    assert not (store / "shards").exists()
    assert not [*tmp_path.rglob("*.h5")]


def test_a_text_of_another_item_is_refused(planned: Path, cli: Run, store: Path) -> None:
    file = plan_files(planned)[-2]
    sources = json.loads(file.read_bytes())["content"]["sources"]
    _change(file, "sources", sources[::-1])
    assert "not those of its content keys" in cli("encode", file, code=1).stderr
    assert not (store / "shards").exists()


def test_the_folder_of_a_store_that_is_not_mounted_is_refused(planned: Path, cli: Run, store: Path) -> None:
    shutil.move(store, store.with_name("away"))
    store.mkdir()
    assert "does not see the store" in cli("encode", planned, code=1).stderr
    assert not [*store.iterdir()]


def test_an_unseen_folder_of_images_is_refused(planned: Path, cli: Run, dataset: Path, store: Path) -> None:
    shutil.move(dataset, dataset.with_name("away"))
    assert "sees none of the 7 image files" in cli("encode", planned, code=1).stderr
    assert not (store / "shards").exists()


def test_another_model_in_the_folder_is_refused(
    cli: Run, dataset: Path, small_clip: Path, tmp_path: Path, store: Path
) -> None:
    base = Path(shutil.copytree(small_clip, tmp_path / "base"))
    cli("ingest", "coco", dataset)
    cli("model", "add", "mine", "--base", base)
    cli("plan", "--model", "mine", "--only", "captions", "--out", tmp_path / "plans")
    edit_json(base / "config.json", logit_scale_init_value=1.5)
    assert "are not those that were planned" in cli("encode", tmp_path / "plans", code=1).stderr
    assert not (store / "shards").exists()


def test_another_probe_is_refused(planned: Path, cli: Run) -> None:
    file = plan_files(planned)[0]
    plan, _ = read_file(file, "plan", Plan)
    probe = plan.towers[0].probes["image"]
    probe.vector[:] = probe.vector[::-1]
    file.unlink()
    write_file(file, "plan", plan)
    assert "differ from those stored under its fingerprint" in cli("encode", file, code=1).stderr


@pytest.mark.parametrize("damage", ["missing", "changed", "manifest"])
def test_register_refuses_what_is_not_as_encoded_and_encode_mends_it(
    damage: str, planned: Path, cli: Run, cli_json: Run, store: Path
) -> None:
    cli("encode", planned)
    files = plan_files(planned)
    manifest = planned / "manifests" / files[0].name
    shard = store / json.loads(manifest.read_text())["content"]["shards"][0]["file"]
    if damage == "missing":
        shard.unlink()
    elif damage == "changed":
        shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    else:
        manifest.write_text(manifest.read_text()[:-40])
    result = cli("register", planned, code=1)
    assert files[0].name in result.stderr
    assert f"encode {planned}" in result.stderr
    assert not manifest.exists()
    encoded = cli_json("encode", planned)["encoded"]
    assert [row["plan"] for row in encoded if row["encoded"]] == ([] if damage == "manifest" else [files[0].name])
    result = cli_json("register", planned)
    assert (result["registered"], result["before"], result["problems"]) == (1, len(files) - 1, [])


def test_a_manifest_of_other_registered_shards_is_refused(planned: Path, cli: Run, cli_json: Run) -> None:
    first, second, *_ = plan_files(planned)
    cli("encode", first)
    cli("register", planned)
    manifest = read_manifest(first)
    assert manifest
    _, digest = read_file(second, "plan", Plan)
    write_file(planned / "manifests" / second.name, "manifest", msgspec.structs.replace(manifest, plan=digest))
    assert f"{second.name}: its manifest is of another plan" in cli("register", planned, code=1).stderr
    assert second.name in cli_json("register", planned)["missing"]


def test_a_lost_plan_file_is_named_and_its_manifest_stays(planned: Path, cli: Run, cli_json: Run) -> None:
    cli("encode", planned)
    first, *others = plan_files(planned)
    content = first.read_bytes()
    first.unlink()
    assert f"cannot read {first}" in cli("register", planned, code=1).stderr
    first.write_bytes(content)
    result = cli_json("register", planned)
    assert (result["registered"], result["before"]) == (1, len(others))


def test_a_plan_without_its_images_does_not_stop_the_others(
    planned: Path, cli: Run, cli_json: Run, dataset: Path
) -> None:
    for image in sorted((dataset / "val").glob("*.jpg"))[ITEMS : 2 * ITEMS]:
        image.unlink()
    rows = cli_json("encode", planned)["encoded"]
    assert [row["failed"] for row in rows[:3]] == [0, ITEMS, 0]
    assert f"{ITEMS} items failed" in cli("register", planned, code=3).stderr


def test_a_task_beyond_the_number_of_tasks_is_refused(planned: Path, cli: Run) -> None:
    assert "--tasks" in cli("encode", planned, "--task", 3, "--tasks", 3, code=1).stderr
