"""Damaged vectors on disk: every command that reads them refuses, and names the shard and the remedy."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import Result
from helpers import run_command
from shard_files import random_vectors, write_vectors

import clipstore
from clipstore import shards
from clipstore.errors import ShardError
from clipstore.shards import read

Run = Callable[..., Result]
RunJson = Callable[..., Any]
Query = Callable[[str], list[dict[str, Any]]]
Damage = Callable[[np.memmap[Any, Any]], None]


def zero_half(rows: np.memmap[Any, Any]) -> None:
    rows[: len(rows) // 2] = 0


def flip_an_exponent_bit(rows: np.memmap[Any, Any]) -> None:
    """Flip the lowest bit of the exponent of one value in every third row, which doubles or halves it."""
    rows.view(np.uint32)[::3, 5] ^= np.uint32(1 << 23)


def apply_damage(path: Path, damage: Damage) -> None:
    """Change a shard's rows in the bytes of the file, as a failing disk does; the checksum stays."""
    with h5py.File(path, "r") as file:
        values = file["values"]
        place, shape, dtype = values.id.get_offset(), values.shape, values.dtype
    damage(np.memmap(path, dtype=dtype, mode="r+", offset=place, shape=shape))
    path.touch()  # on a file system in memory, a write through a memory map leaves the time of the file


def shard_of(sql: Query, store: Path, tower: str, kind: str = "vectors") -> Path:
    (row,) = sql(f"SELECT file FROM shards WHERE tower = '{tower}' AND kind = '{kind}'")
    return store / str(row["file"])


@pytest.fixture
def embedded(embedded_store: Path, store: Path) -> str:
    """A split embedded with the bundled model."""
    shutil.copytree(embedded_store, store)
    return "scenes/val"


@pytest.fixture(scope="module")
def embedded_store(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("embedded") / "store"
    run_command(store, "ingest", "coco", scenes, "--name", "scenes")
    run_command(store, "embed", "--model", "demo", "--split", "scenes/val")
    return store


@pytest.fixture
def imported(cli: Run, import_vectors: Run, tmp_path: Path) -> Iterator[str]:
    """A split with imported vectors. At the end, the remedy that messages name is applied."""
    rows = "".join(f"{number}.jpg,this is {number},{number},{number}\n" for number in range(30))
    (tmp_path / "g.csv").write_text("image_path,caption,image_id,caption_id\n" + rows)
    cli("ingest", "csv", tmp_path / "g.csv")
    vectors = np.random.default_rng(3).normal(size=(30, 16)).astype(np.float32)
    arguments: tuple[Any, ...] = ("m", "g/all", dict(enumerate(vectors)), dict(enumerate(vectors)))
    import_vectors(*arguments)
    yield "g/all"
    import_vectors(*arguments)
    assert cli("eval", "--split", "g/all", "--json").exit_code == 0


@pytest.mark.parametrize(
    ("tower", "damage"),
    [
        ("image", zero_half),
        ("text", flip_an_exponent_bit),
        pytest.param("image", flip_an_exponent_bit, marks=pytest.mark.full),
        pytest.param("text", zero_half, marks=pytest.mark.full),
    ],
)
def test_every_command_refuses_damaged_vectors(
    imported: str, cli: Run, sql: Query, store: Path, tmp_path: Path, damage: Damage, tower: str
) -> None:
    shard = shard_of(sql, store, tower)
    apply_damage(shard, damage)
    for words in (
        ("eval", "--split", imported),
        ("eval", "--split", imported, "--protocol", "paired-rows", "--json"),
        ("hubness", "--split", imported),
        ("export", "vectors", "--model", "m", "--split", imported, tmp_path / "out"),
    ):
        error = cli(*words, code=1).stderr
        assert f"the shard {shard} is damaged" in error, words
        assert "delete the file and run 'clipstore import m'" in error, words
    with pytest.raises(ShardError, match="is damaged"):
        clipstore.open(store).vectors("m", imported, f"{'image' if tower == 'image' else 'caption'}s")
    assert sql("SELECT count(*) AS n FROM evaluations") == [{"n": 0}]
    shard.unlink()


def test_embed_recomputes_deleted_shards(embedded: str, cli: Run, cli_json: RunJson, sql: Query, store: Path) -> None:
    before = cli_json("eval", "--split", embedded)["evaluations"][0]["metrics"]
    shard = shard_of(sql, store, "text")
    apply_damage(shard, zero_half)
    error = cli("eval", "--split", embedded, code=1).stderr
    assert f"{shard} is damaged" in error
    assert "run 'clipstore embed --model demo'" in error
    image = shard_of(sql, store, "image")
    apply_damage(image, flip_an_exponent_bit)
    error = cli("retrieve", "a red circle", "--model", "demo", "--split", embedded, code=1).stderr
    assert f"{image} is damaged" in error
    shard.unlink()
    image.unlink()
    cli("embed", "--model", "demo")
    assert cli_json("eval", "--split", embedded)["evaluations"][0]["metrics"] == before


JOB = """
[model]
family = "clip"
base = "bundled:demo"
[train]
split = "half/train"
validation = "half/val"
epochs = 1
"""


def test_training_refuses_damaged_features(
    embedded: str, cli: Run, sql: Query, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tuned.toml").write_text(JOB)
    cli("split", "half", "--from", embedded, "--validation", 0.5)
    features = shard_of(sql, store, "image", "features")
    apply_damage(features, flip_an_exponent_bit)
    error = cli("train", "--model", "tuned", code=1).stderr
    assert f"the shard {features} is damaged: its features do not match" in error
    assert "run 'clipstore embed --model demo'" in error
    features.unlink()
    cli("embed", "--model", "demo")
    cli("train", "--model", "tuned")


@pytest.mark.parametrize(
    ("recorded", "first", "damaged"), [(True, ["hash"], ["hash", "scan"]), (False, ["scan"], ["scan"])]
)
def test_a_file_is_compared_with_its_checksum_once_until_it_changes(
    recorded: bool, first: list[str], damaged: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records the passes over the file: at the first read, and at each read of a damaged file.

    A file whose checksum is registered is only hashed, unless it has changed.
    """
    values = random_vectors(50)
    path = tmp_path / "text-1.h5"
    shard = write_vectors(path, values).registered()
    shard = shard if recorded else dataclasses.replace(shard, file_checksum=None)
    shards.clear_checks()
    passes: list[str] = []
    scan, hashed = read.scan_shard, read.file_checksum
    monkeypatch.setattr(read, "scan_shard", lambda path: (passes.append("scan"), scan(path))[1])
    monkeypatch.setattr(read, "file_checksum", lambda path: (passes.append("hash"), hashed(path))[1])
    which, rows = np.zeros(50, dtype=np.int64), np.arange(50)
    for _ in range(5):
        assert np.array_equal(shards.gather([shard], which, rows), values)
    assert passes == first
    apply_damage(path, flip_an_exponent_bit)
    for _ in range(2):
        with pytest.raises(ShardError, match="is damaged"):
            shards.gather([shard], which, rows)
    assert passes == first + damaged * 2
