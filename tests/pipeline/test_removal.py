"""Removal of models, splits, datasets and evaluations; gc and info."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import environment

import clipstore
from clipstore.catalog import FORMAT_VERSION
from clipstore.cli import main
from clipstore.errors import BadNameError, ShardError
from clipstore.pipeline.gc import collect_garbage
from clipstore.pipeline.split import draw_split
from clipstore.store.layout import Store
from clipstore.store.locks import shard_removal_lock, shard_write_lock

Run = Callable[..., Any]

TABLES = (
    "datasets", "splits", "split_images", "images", "captions", "categories", "image_categories", "models", "towers",
    "shards", "vectors", "evaluations", "ranks", "hits", "seen_images", "training_images", "training_contents",
)  # fmt: skip
SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with d.csv, e.csv and a store. Copy the store before changing it.

    The store has the datasets d (splits a and b) and e (split all), with 8 images per split and one caption each, and
    the models m and n, imported and evaluated on all three splits.
    """
    root = tmp_path_factory.mktemp("removal")
    rng = np.random.default_rng(1)

    def run(*words: object) -> None:
        result = CliRunner().invoke(main, [*map(str, words), "--store", str(root / "store")])
        assert result.exit_code == 0, result.output

    for name, splits in (("d", "ab"), ("e", " ")):
        with (root / f"{name}.csv").open("w", newline="") as file:
            items = [(split.strip(), f"{split.strip()}{n}") for split in splits for n in range(SIZE)]
            rows = [(f"{name}{item}.jpg", f"caption {item}", item, item, split) for split, item in items]
            csv.writer(file).writerows([("image_path", "caption", "image_id", "caption_id", "split"), *rows])
        run("ingest", "csv", root / f"{name}.csv")
    for split, ids in (("d/a", "a"), ("d/b", "b"), ("e/all", "")):
        np.save(root / "ids.npy", np.array([f"{ids}{n}" for n in range(SIZE)]))
        for model in ("m", "n"):
            words: list[object] = []
            for side in ("image", "caption"):
                np.save(root / f"{side}.npy", rng.normal(size=(SIZE, 4)).astype(np.float32))
                words += [f"--{side}s", root / f"{side}.npy", f"--{side}-ids", root / "ids.npy"]
            run("import", model, "--split", split, *words)
    for split in ("d/a", "d/b", "e/all"):
        run("eval", "--split", split)
    return root


@pytest.fixture(autouse=True)
def store_copy(folder: Path, store: Path) -> None:
    """A copy of the store for each test."""
    shutil.copytree(folder / "store", store)


@pytest.fixture
def count(sql: Run) -> Callable[[], dict[str, int]]:
    """The number of rows of each table."""
    words = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in TABLES)
    return lambda: sql(f"SELECT {words}")[0]


def removed_rows(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The number of rows that each table lost, without the tables that lost none."""
    return {table: before[table] - after[table] for table in TABLES if before[table] != after[table]}


# ---- models ----


def test_model_remove_deletes_evaluations_and_keeps_vectors(cli: Run, cli_json: Run, count: Run) -> None:
    cli("model", "trained", "m", "--split", "d/a")
    before, others = count(), cli_json("query", "evaluations", "-p", "model=n")
    result = cli_json("model", "remove", "m", "--yes")
    assert result["removed"] == {
        "evaluations": 3,
        "ranks": 48,
        "hits": before["hits"] // 2,
        "towers": 2,
        "training images": SIZE,
    }
    assert [line.split(" (")[0] for line in result["remains"]] == [
        f"24 vectors of its {side} tower" for side in ("image", "text")
    ]
    expected = {"models": 1, "towers": 2, "evaluations": 3, "ranks": 48, "hits": before["hits"] // 2}
    assert removed_rows(before, count()) == expected | {"training_images": SIZE}
    assert cli_json("query", "evaluations", "-p", "model=n") == others
    assert "unknown model 'm'" in cli("eval", "--model", "m", "--split", "d/a", code=1).stderr
    cli("model", "add", "m", "--base", "bundled:demo")  # the name can be used again
    assert cli_json("model", "show", "m")["base"] == "bundled:demo"


def test_model_remove_of_an_unknown_model_names_the_nearest(cli: Run) -> None:
    assert "unknown model 'mm' (did you mean 'm'?)" in cli("model", "remove", "mm", "--yes", code=1).stderr
    message = cli("model", "remove", "demo", "--yes", code=1).stderr
    assert "demo, which is the job" in message
    assert "nothing to remove" in message


def test_model_remove_keeps_the_adapter_without_the_option(cli: Run, cli_json: Run, store: Path, sql: Run) -> None:
    """The adapter lists its training images, which are recorded again with the model."""
    adapter = store / "adapters" / "demo-full"
    (adapter / "best").mkdir(parents=True)
    contents = ["0" * 64, "1" * 64]
    (adapter / "best" / "training_images.txt").write_text("".join(f"{content}\n" for content in contents))
    cli("model", "trained", "demo-full", "--split", "d/a")
    recorded = "SELECT content FROM training_contents ORDER BY content"
    assert [row["content"] for row in sql(recorded)] == contents
    result = cli("model", "remove", "demo-full", "--yes").stdout
    assert f"remains: its adapter {adapter}; --adapter removes it too" in result
    assert "remains: the job" in result
    assert sql(recorded) == []
    cli("model", "trained", "demo-full", "--split", "d/a")
    assert [row["content"] for row in sql(recorded)] == contents
    result = cli_json("model", "remove", "demo-full", "--adapter", "--yes")
    assert result["removed"]["adapter files"] == 1
    assert not adapter.exists()


# ---- splits and datasets ----


def test_split_remove_deletes_images_and_evaluations(cli_json: Run, count: Run) -> None:
    before = count()
    result = cli_json("split", "remove", "d/a", "--yes")
    hits = result["removed"].pop("hits")
    assert result["removed"] == {"evaluations": 2, "ranks": 4 * SIZE, "splits": 1, "captions": SIZE, "images": SIZE}
    expected = {
        "splits": 1,
        "split_images": SIZE,
        "images": SIZE,
        "captions": SIZE,
        "evaluations": 2,
        "ranks": 4 * SIZE,
    }
    assert removed_rows(before, count()) == expected | {"hits": hits}


def test_split_remove_of_a_group_removes_all_its_splits(cli: Run, cli_json: Run, count: Run) -> None:
    before = count()
    cli("split", "g", "--from", "d/a")
    cli("split", "h", "--from", "g/train")
    for name, words in (
        ("g/train", "g/train was drawn together with g/val: remove the group with 'clipstore split remove g'"),
        ("g", "h/train, h/val were drawn from g: remove them first with 'clipstore split remove h'"),
        ("d/a", "g/train, g/val were drawn from d/a: remove them first with 'clipstore split remove g'"),
        ("d", "'d' is a dataset: 'clipstore dataset remove d'"),
        ("e/all", "e/all is the only split of e: 'clipstore dataset remove e'"),
        ("d/c", "unknown split 'd/c'"),
    ):
        assert words in cli("split", "remove", name, "--yes", code=1).stderr
    for name in ("h", "g"):
        result = cli("split", "remove", name, "--yes").stdout
        assert f"removed {name}/train and {name}/val: 2 splits" in result
        assert "remains: its images and captions, in other splits of d" in result
    assert count() == before
    assert len(cli_json("split", "g", "--from", "d/a")["splits"]) == 2


def test_dataset_remove_deletes_drawn_splits_too(cli: Run, cli_json: Run, count: Run, folder: Path) -> None:
    cli("split", "g", "--from", "d/a")
    before, vectors = count(), count()["vectors"]
    result = cli("dataset", "remove", "d", "--yes").stdout
    assert "removed the dataset d with d/a, d/b, g/train, g/val: 4 evaluations" in result
    after = count()
    assert after["vectors"] == vectors
    assert {table: after[table] for table in ("datasets", "splits", "images", "captions", "evaluations")} == {
        "datasets": 1,
        "splits": 1,
        "images": SIZE,
        "captions": SIZE,
        "evaluations": 2,
    }
    assert [row["dataset"] for row in cli_json("dataset", "list")["datasets"]] == ["e"]
    assert "unknown dataset 'd'" in cli("dataset", "remove", "d", "--yes", code=1).stderr
    cli("ingest", "csv", folder / "d.csv")  # its vectors remain
    assert len(cli_json("eval", "--split", "d/a")["evaluations"]) == 2
    assert removed_rows(before, count()).keys() <= {"splits", "split_images", "evaluations", "ranks", "hits"}


def test_training_images_remain_known_after_dataset_remove(
    cli: Run, cli_json: Run, scenes: Path, sql: Run, tmp_path: Path
) -> None:
    cli("ingest", "coco", scenes, "--name", "s")
    cli("embed", "--model", "demo", "--split", "s/val")
    cli("model", "trained", "demo", "--split", "s/val")
    measured = cli_json("eval", "--model", "demo", "--split", "s/val")["evaluations"][0]["measured_on"]
    assert measured["seen_images"] == measured["images"] == 24
    cli("dataset", "remove", "s", "--yes")
    result = cli_json("model", "trained", "demo", "--split", "d/a")
    assert result["training_images"] == 24 + SIZE  # the 24 are recorded by content
    cli("ingest", "coco", scenes, "--name", "again")
    cli("embed", "--model", "demo", "--split", "again/val")
    measured = cli_json("eval", "--model", "demo", "--split", "again/val")["evaluations"][0]["measured_on"]
    assert measured["seen_images"] == 24


def test_dataset_list_counts_splits_and_items(cli: Run, cli_json: Run, folder: Path) -> None:
    cli("split", "g", "--from", "d/a")
    rows = {row["dataset"]: row for row in cli_json("dataset", "list")["datasets"]}
    assert rows["d"] == {
        "dataset": "d",
        "kind": "csv",
        "root": str(folder),
        "cleaned": False,
        "splits": 2,
        "drawn_splits": 2,
        "images": 2 * SIZE,
        "captions": 2 * SIZE,
    }


# ---- evaluations ----


@pytest.mark.parametrize(
    ("words", "remaining"),
    [
        (("--model", "m"), 3),
        (("--split", "d/a"), 4),
        (("--model", "n", "--split", "e/all", "--protocol", "standard"), 5),
        (("--protocol", "standard"), 0),
    ],
)
def test_eval_remove_selects_by_model_split_and_protocol(
    cli_json: Run, count: Run, words: tuple[str, ...], remaining: int
) -> None:
    result = cli_json("eval", "remove", *words, "--yes")
    assert result["removed"]["evaluations"] == 6 - remaining
    after = count()
    assert (after["evaluations"], after["ranks"]) == (remaining, remaining * 2 * SIZE)
    assert after["vectors"] == 96


def test_eval_remove_without_a_match_names_what_is_stored(cli: Run) -> None:
    assert "name a --model, a --split or a --protocol" in cli("eval", "remove", "--yes", code=1).stderr
    assert "did you mean 'd/a'" in cli("eval", "remove", "--split", "d/aa", "--yes", code=1).stderr
    result = cli("eval", "remove", "--model", "m", "--protocol", "cxc", "--yes", code=1).stderr
    assert "no evaluation of m, cxc" in result
    assert "m on d/a (standard)" in result


# ---- confirmation ----


EVAL_REMOVE = ("eval", "remove", "--model", "m")


def test_nothing_is_removed_without_confirmation(cli: Run, count: Run) -> None:
    before = count()
    for words in (
        ("model", "remove", "m"),
        ("split", "remove", "d/a"),
        ("dataset", "remove", "d"),
        ("eval", "remove", "--model", "m"),
    ):
        result = cli(*words, code=1).stderr
        assert "nothing was removed (" in result
        assert "evaluations, " in result
        assert "confirm with --yes" in result
    assert count() == before


_TERMINAL = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-c", "from clipstore.cli import main; main()", *sys.argv[2:]])
os.write(terminal, sys.argv[1].encode())
output = b""
try:
    while part := os.read(terminal, 4096):
        output += part
except OSError:  # the end of the output on Linux
    pass
print(output.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_removal_on_a_terminal_asks_for_confirmation(count: Run, store: Path, answer: str, code: int) -> None:
    before = count()["evaluations"]
    words = [sys.executable, "-c", _TERMINAL, answer, "model", "remove", "m"]
    completed = subprocess.run(words, env=environment(store), capture_output=True, text=True, check=False)
    assert completed.returncode == code, completed.stdout
    assert "the model m: 3 evaluations" in completed.stdout
    assert "Remove? [y/N]" in completed.stdout
    assert count()["evaluations"] == (before if code else before - 3)


# ---- split and eval are also groups ----


def test_help_of_split_and_eval_lists_the_subcommands() -> None:
    for word, option in (("split", "--validation"), ("eval", "--protocol")):
        result = CliRunner().invoke(main, [word, "--help"], terminal_width=100).stdout
        assert f"Usage: clipstore {word} [OPTIONS]" in result.replace("main", "clipstore")
        assert option in result
        assert re.search(r"Commands:\n  remove  Remove", result)


def test_splits_named_remove_are_refused(cli: Run, store: Path) -> None:
    for words in (("remove", "--from", "d/a"), ("--from", "d/a", "remove")):
        result = cli("split", *words, code=2 if words[0] == "remove" else 1)
        assert "splits cannot be named 'remove'" in result.stderr
    with pytest.raises(BadNameError, match="'remove'"):
        draw_split(Store(store), "remove", origin="d/a")
    assert "Missing argument" in cli("split", code=2).stderr
    assert "Missing option '--split'" in cli("eval", code=2).stderr


# ---- gc ----


def kinds(result: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {row["kind"]: (row["files"], row["rows"]) for row in result["kinds"] if row["files"] or row["rows"]}


def test_gc_lists_and_deletes_unused_files(
    cli: Run, cli_json: Run, import_vectors: Run, count: Run, store: Path
) -> None:
    side = {str(n): [float(n == k) + 1 for k in range(4)] for n in range(SIZE)}
    import_vectors("n", "e/all", side, side)
    cli("eval", "--model", "n", "--split", "e/all")
    cli("model", "remove", "m", "--yes")
    shards = sorted((store / "shards").glob("*/*.h5"))
    shard_folder = shards[0].parent
    orphan = shard_folder / "text-0000000000000000.h5"
    orphan.write_bytes(b"an orphan")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    leftover, alive = (shard_folder / f".text-1.h5.{number}.tmp" for number in (ended.pid, os.getpid()))
    other = shard_folder / "notes.txt"
    for file in (leftover, alive, other):
        file.write_bytes(b"....")
    outside = store / "adapters" / "x.h5"
    outside.parent.mkdir()
    outside.write_bytes(b"x")
    before = {file: file.stat().st_size for file in shards}
    metrics = cli_json("eval", "--model", "n", "--split", "e/all")["evaluations"][0]["metrics"]

    result = cli_json("gc")
    assert result["deleted"] is False
    assert kinds(result) == {"unused": (6, 48), "replaced": (2, 16), "orphans": (1, 0), "leftovers": (1, 0)}
    paths = {Path(path) for row in result["kinds"] for path in row["paths"]}
    assert {orphan, leftover} <= paths
    assert result["bytes"] == sum(before.get(path, 0) for path in paths) + len(b"an orphan") + 4
    assert all(path.exists() for path in paths)
    assert "can be removed with 'clipstore gc --delete'" in cli("gc").stdout

    assert kinds(cli_json("gc", "--delete")) == kinds(result)
    assert not [path for path in paths if path.exists()]
    assert all(path.exists() for path in (alive, other, outside, *(set(shards) - paths)))
    assert kinds(cli_json("gc")) == {}
    assert (count()["shards"], count()["vectors"]) == (len(set(shards) - paths), 48)
    assert cli_json("eval", "--model", "n", "--split", "e/all")["evaluations"][0]["metrics"] == metrics


def test_gc_deletes_failed_items_of_removed_models(cli: Run, cli_json: Run, sql: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    (tmp_path / "b.csv").write_text("image_path,caption\nbroken.jpg,a thing\n")
    cli("ingest", "csv", tmp_path / "b.csv")
    cli("embed", "--model", "demo", "--split", "b/all", code=1)
    (failed,) = sql("SELECT count(*) AS n FROM item_failures")
    assert failed["n"] > 0
    assert kinds(cli_json("gc", "--delete")) == {}
    assert sql("SELECT count(*) AS n FROM item_failures") == [failed]
    probes = sql("SELECT * FROM probes")
    assert len(probes) == 3
    cli("model", "remove", "demo", "--yes")
    assert kinds(cli_json("gc"))["failures"] == (0, failed["n"])
    assert sql("SELECT * FROM probes") == probes  # a dry run
    assert kinds(cli_json("gc", "--delete"))["failures"] == (0, failed["n"])
    for table in ("item_failures", "precision_checks", "probes"):
        assert sql(f"SELECT count(*) AS n FROM {table}") == [{"n": 0}]


def test_gc_keeps_probes_of_models_and_vectors(cli: Run, scenes: Path, sql: Run) -> None:
    """Probes of a removed model remain until its vectors are deleted."""
    cli("ingest", "coco", scenes, "--name", "s")
    cli("embed", "--model", "demo", "--split", "s/val")
    probes = sql("SELECT fingerprint FROM probes ORDER BY 1")
    assert len(probes) == 3
    cli("gc", "--delete")
    cli("model", "remove", "demo", "--yes")
    cli("gc")
    assert sql("SELECT fingerprint FROM probes ORDER BY 1") == probes
    cli("gc", "--delete")
    assert sql("SELECT fingerprint FROM probes") == []


# Holds the lock that embed and import hold while they write shards.
_WRITE = """
import sys
from pathlib import Path
from clipstore.store.locks import shard_write_lock
from clipstore.store.layout import Store
with shard_write_lock(Store(Path(sys.argv[1]))):
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_gc_refuses_to_delete_while_shards_are_written(cli: Run, cli_json: Run, store: Path) -> None:
    cli("model", "remove", "m", "--yes")
    words = [sys.executable, "-c", _WRITE, str(store)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment(store), **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert f"process {process.pid} is writing shards" in cli("gc", "--delete", code=1).stderr
        assert kinds(cli_json("gc")) == {"unused": (6, 48)}
        process.send_signal(signal.SIGKILL)
    assert cli_json("gc", "--delete")["deleted"]


def test_embed_and_import_are_refused_while_gc_deletes(cli: Run, import_vectors: Run, store: Path) -> None:
    with shard_removal_lock(Store(store)):
        result = import_vectors("o", "d/a", *({"a0": [1.0, 0.0]} for _ in range(2)), code=1).stderr
        assert "'clipstore gc' is removing files" in result
        assert "'clipstore gc' is removing" in cli("embed", "--model", "demo", "--split", "d/a", code=1).stderr
    with shard_write_lock(Store(store)), pytest.raises(ShardError, match="is writing shards"):
        collect_garbage(Store(store), delete=True)


def test_gc_keeps_files_outside_the_shards(cli: Run, store: Path, tmp_path: Path) -> None:
    """A link in the folder of the shards points to another folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "text-1.h5").write_bytes(b"1")
    (store / "shards" / "linked").symlink_to(outside)
    cli("gc", "--delete")
    assert (outside / "text-1.h5").exists()


# ---- info ----


def test_info_counts_rows_and_bytes(cli: Run, cli_json: Run, count: Run, store: Path) -> None:
    (store / "adapters" / "m").mkdir(parents=True)
    (store / "adapters" / "m" / "weights").write_bytes(b"12345")
    result = cli_json("info")
    rows = count()
    assert result["counts"] == {name: rows.get(name, 0) for name in result["counts"]}
    assert result["counts"]["ranks"] == 6 * 2 * SIZE
    assert result["versions"]["duckdb"] == version("duckdb")
    assert result["format"] == FORMAT_VERSION
    sizes = [file.stat().st_size for file in (store / "shards").rglob("*") if file.is_file()]
    assert result["bytes"]["shards"] == sum(sizes)
    models = {row["model"]: row for row in result["models"]}
    assert [models["m"][key] for key in ("vectors", "features", "adapter_bytes")] == [48, 0, 5]
    assert models["m"]["shard_bytes"] == models["m"]["own_shard_bytes"] > 0
    text = cli("info").stdout
    assert str(store) in text
    assert f"torch {version('torch')}" in text


def test_info_without_a_store_has_the_versions(cli: Run, cli_json: Run, tmp_path: Path) -> None:
    result = cli_json("info", "--store", tmp_path / "none")
    assert (result["store"], result["versions"]["clipstore"]) == (None, version("clipstore"))
    assert "no store at" in cli("info", "--store", tmp_path / "none").stdout


def test_info_and_gc_import_no_torch(store: Path) -> None:
    program = (
        "import sys\nfrom clipstore.cli import main\ntry:\n    main()\nfinally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)"
    )
    for word in ("info", "gc"):
        words = [sys.executable, "-c", program, word, "--json"]
        completed = subprocess.run(words, env=environment(store), capture_output=True, text=True, check=True)
        assert completed.stderr.splitlines()[-1] == "False"
        assert json.loads(completed.stdout)


def test_python_reads_the_remaining_model(cli: Run, store: Path) -> None:
    cli("model", "remove", "m", "--yes")
    assert clipstore.open(store).vectors("n", "d/a", "images")[0].tolist() == [f"a{n}" for n in range(SIZE)]
