"""An interrupted `clipstore embed` resumes: complete shards are adopted, damaged and missing ones written again."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import h5py
import numpy as np
import pytest
from embed_runs import all_embedded, all_reused, embed_towers, item_counts, shard_files
from helpers import environment, query_rows, run_command, stored_vectors

from clipstore.demo.scenes import draw_dataset
from clipstore.pipeline.embed import plan
from clipstore.records import TowerName

Run = Callable[..., Any]

SAME = 1e-6  # vectors that are computed again on the same machine, in the same batches


class Scale(NamedTuple):
    """The number of drawn images, and the items per shard: two or four shards of images, two or three of captions."""

    images: int
    shard: dict[TowerName, int]


SHORT, LONG = Scale(400, {"image": 256, "text": 1024}), Scale(3600, {"image": 1024, "text": 8192})

_FINGERPRINT = {
    "vectors of images": "SELECT fingerprint FROM towers WHERE tower = 'image'",
    "features": "SELECT backbone AS fingerprint FROM towers WHERE tower = 'image'",
    "captions": "SELECT fingerprint FROM towers WHERE tower = 'text'",
}


class Prepared(NamedTuple):
    """An ingested store of drawn images, and the arguments that embed it with the shards of a scale."""

    store: Path
    scale: Scale

    def embed(self, *words: object) -> list[str]:
        """The arguments of a new process that runs `clipstore embed`."""
        program = f"from clipstore.pipeline.embed import plan; plan.ITEMS_PER_SHARD = {self.scale.shard!r}; "
        return [sys.executable, "-c", program + "from clipstore.cli import main; main()", "embed", *map(str, words)]


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """An ingested store of the scale that the parameter states. Copy it before changing it."""
    root, store = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("ingested") / "store"
    draw_dataset(root, images=request.param.images, seed=9, split="val")
    run_command(store, "ingest", "coco", root)
    return Prepared(store, request.param)


@pytest.fixture(scope="module")
def uninterrupted(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after a run that was not interrupted."""
    store = Path(shutil.copytree(prepared.store, tmp_path_factory.mktemp("uninterrupted") / "store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ITEMS_PER_SHARD", prepared.scale.shard)
        run_command(store, "embed", "--model", "demo")
    return store


def kill_at(store: Path, pattern: str, shards: int, command: list[str]) -> None:
    """Run a command and send SIGKILL as soon as this many files match."""
    deadline = time.monotonic() + 120
    with subprocess.Popen(command, env=environment(store), stderr=subprocess.DEVNULL) as process:
        while len(list(store.glob(pattern))) < shards:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.005)
                pytest.fail("the process ended before it was killed")
            assert time.monotonic() < deadline
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.full
@pytest.mark.parametrize("prepared", [SHORT], indirect=True, ids=["short"])
def test_a_killed_run_resumes_to_the_same_vectors(prepared: Prepared, uninterrupted: Path, store: Path) -> None:
    assert_resumes("captions", 1, prepared, uninterrupted, store)


@pytest.mark.full
@pytest.mark.parametrize("prepared", [LONG], indirect=True, ids=["long"])
@pytest.mark.parametrize(
    ("kind", "shards"), [("vectors of images", 2), ("features", 2), ("captions", 1), ("captions", 2)]
)
def test_a_run_killed_at_any_shard_resumes_to_the_same_vectors(
    kind: str, shards: int, prepared: Prepared, uninterrupted: Path, store: Path
) -> None:
    assert_resumes(kind, shards, prepared, uninterrupted, store)


def assert_resumes(kind: str, shards: int, prepared: Prepared, uninterrupted: Path, store: Path) -> None:
    """Kill `embed` once there are this many shards of a kind; the next run gives what an uninterrupted one gives."""
    shutil.copytree(prepared.store, store)
    fingerprint = query_rows(uninterrupted, _FINGERPRINT[kind])[0]["fingerprint"]
    kill_at(store, f"shards/{fingerprint}/*.h5", shards, prepared.embed("--model", "demo"))
    registered = {row["file"] for row in query_rows(store, "SELECT file FROM shards")}
    before = shard_files(store)
    assert registered <= set(before)
    assert len(registered) < len(shard_files(uninterrupted))
    command = prepared.embed("--model", "demo", "--json")
    result = subprocess.run(command, env=environment(store), capture_output=True, text=True, check=True, timeout=300)
    image = next(row for row in json.loads(result.stdout)["embedded"] if row["tower"] == "image")
    assert image["reused"] + image["done"] == query_rows(prepared.store, "SELECT count(*) AS n FROM images")[0]["n"]
    assert image["reused"] >= prepared.scale.shard["image"]
    after = shard_files(store)
    assert {name: after[name] for name in registered} == {name: before[name] for name in registered}
    for items in ("images", "captions"):
        np.testing.assert_allclose(stored_vectors(store, items), stored_vectors(uninterrupted, items), atol=SAME)
    assert after.keys() == shard_files(uninterrupted).keys()


# ---- complete shards that were not registered ----


@pytest.fixture
def unregistered(prepared_scenes: Path, embedded_store: Path) -> Path:
    """A store whose shards are complete and whose catalog has none of them."""
    shutil.copy(prepared_scenes / "ingested" / "catalog.duckdb", embedded_store)
    return embedded_store


def test_complete_shards_are_adopted(unregistered: Path, cli_json: Run) -> None:
    before = shard_files(unregistered)
    summary = embed_towers(cli_json)
    assert item_counts(summary["image"]) == all_reused(24)
    assert shard_files(unregistered) == before
    assert stored_vectors(unregistered, "images").shape == (24, 64)
    assert item_counts(embed_towers(cli_json)["image"]) == all_reused(24)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def overwrite(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["values"][3] = 1


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("vectors of images", truncate),
        ("features", overwrite),
        pytest.param("captions", overwrite, marks=pytest.mark.full),
        pytest.param("vectors of images", overwrite, marks=pytest.mark.full),
        pytest.param("features", truncate, marks=pytest.mark.full),
        pytest.param("captions", truncate, marks=pytest.mark.full),
    ],
)
def test_damaged_shards_are_written_again(
    kind: str, damage: Callable[[Path], None], unregistered: Path, cli_json: Run
) -> None:
    before = shard_bytes(unregistered)
    shard = next(path for path in before if shard_kind(unregistered / path) == kind)
    damage(unregistered / shard)
    assert shard_bytes(unregistered) != before
    embed_towers(cli_json)
    assert_same_shards(shard_bytes(unregistered), before)


def test_images_without_a_features_shard_are_embedded_again(unregistered: Path, cli_json: Run) -> None:
    """A run killed between the two shards of a plan leaves such a store."""
    before = shard_bytes(unregistered)
    next(unregistered / path for path in before if shard_kind(unregistered / path) == "features").unlink()
    assert item_counts(embed_towers(cli_json)["image"]) == all_embedded(24)
    assert_same_shards(shard_bytes(unregistered), before)


def shard_kind(path: Path) -> str:
    if path.name.startswith("text"):
        return "captions"
    with h5py.File(path) as file:
        return "features" if file["values"].shape[1] == 128 else "vectors of images"


def shard_bytes(store: Path) -> dict[str, bytes]:
    return {name: (store / name).read_bytes() for name in shard_files(store)}


def assert_same_shards(result: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """The same items in the same files, and the same rows but for rounding."""
    assert result.keys() == expected.keys()
    for name, shard in result.items():
        with h5py.File(io.BytesIO(shard)) as one, h5py.File(io.BytesIO(expected[name])) as other:
            assert one.keys() == other.keys()
            assert one["content"][:].tolist() == other["content"][:].tolist()
            np.testing.assert_allclose(one["values"][:], other["values"][:], rtol=1e-5, atol=SAME)


# ---- a dataset that grew after a kill ----


def test_shards_planned_for_a_smaller_dataset_are_adopted(embedded_store: Path, cli: Run, tmp_path: Path) -> None:
    """The run was killed before it registered them; now its items are planned together with others."""
    before, leftover = shard_files(embedded_store), embedded_store / next(iter(shard_files(embedded_store)))
    leftover = leftover.with_name(f".image-0.h5.{2**22 + 1}.tmp")
    leftover.write_bytes(b"left by a killed process")
    with duckdb.connect(str(embedded_store / "catalog.duckdb")) as connection:
        for table in ("vectors", "shards", "shard_checksums"):
            connection.execute(f"DELETE FROM {table}")
    draw_dataset(tmp_path / "more", images=5, seed=77, split="all")
    cli("ingest", "coco", tmp_path / "more", "--name", "more")
    cli("embed", "--model", "demo")
    after = shard_files(embedded_store)
    assert {name: after[name] for name in before} == before
    registered = {row["file"] for row in query_rows(embedded_store, "SELECT file FROM shards")}
    assert registered == after.keys()
    assert not leftover.exists()
    assert json.loads(cli("gc", "--json").stdout)["bytes"] == 0
