"""`clipstore catalog rebuild`: the new catalog equals the former one, table by table."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import Result
from helpers import (
    Trained,
    catalog_rows,
    environment,
    held_catalog,
    import_vectors,
    query_rows,
    run_command,
    stale_records,
    write_dataset,
)

from clipstore import waiting
from clipstore.catalog import Catalog
from clipstore.store import recovery
from clipstore.store.layout import Store
from clipstore.store.locks import shard_write_lock

Run = Callable[..., Result]
Rows = list[dict[str, Any]]

# Every table; the ids of shards and evaluations are new, and the times and memory of an evaluation differ. A processor
# decides on the screen and so on the number of rechecked scores, and a store of a former format is of another one.
EXACT = (
    "datasets", "images", "captions", "splits", "split_images", "categories", "image_categories", "models", "towers",
    "item_failures", "precision_checks", "training_images", "training_contents", "extra_positives", "probes",
    "hard_pairs", "store_format", "matching_heads", "score_shards",
)  # fmt: skip
MAPPED = {
    "shards": "SELECT * EXCLUDE (shard_id) FROM shards ORDER BY ALL",
    "shard_checksums": "SELECT shard_checksums.* EXCLUDE (shard_id), file FROM shard_checksums "
    "JOIN shards USING (shard_id) ORDER BY ALL",
    "vectors": "SELECT vectors.* EXCLUDE (shard_id), file FROM vectors JOIN shards USING (shard_id) ORDER BY ALL",
}
EVALUATED = {
    "evaluations": "SELECT * EXCLUDE (evaluation_id, seconds, peak_memory, evaluated_at, screen, rechecked) "
    "FROM evaluations ORDER BY ALL",
} | {
    table: f"SELECT model_id, split_id, protocol, caption_set, unseen, {table}.* EXCLUDE (evaluation_id) FROM {table} "
    "JOIN evaluations USING (evaluation_id) ORDER BY ALL"
    for table in ("ranks", "hits", "hard_scores", "seen_images")
}
EVALUATED |= {
    "classifications": "SELECT * EXCLUDE (classification_id, seconds, evaluated_at) FROM classifications ORDER BY ALL",
} | {
    table: f"SELECT model_id, split_id, labels, templates_digest, {table}.* EXCLUDE (classification_id) FROM {table} "
    "JOIN classifications USING (classification_id) ORDER BY ALL"
    for table in ("class_ranks", "class_hits", "class_scores")
}


def content(store: Path, *, evaluated: bool = True) -> dict[str, Rows]:
    """The rows of every table of a catalog."""
    mapped = MAPPED | (EVALUATED if evaluated else {})
    rows = catalog_rows(store, EXACT)
    with Store(store).catalog.read():  # the statements share it: DuckDB opens the file once
        return rows | {table: query_rows(store, statement) for table, statement in mapped.items()}


def damage(store: Path) -> None:
    """Overwrite a catalog."""
    (store / "catalog.duckdb").write_bytes(b"damaged")


def _tolerant(row: dict[str, Any]) -> dict[str, Any]:
    """A row that equals another up to the rounding of scores, which is that of a processor's matrix products."""
    return {key: pytest.approx(value, rel=1e-12) if isinstance(value, float) else value for key, value in row.items()}


def check_rebuild(store: Path, *, evaluated: bool = True) -> dict[str, Any]:
    """Rebuild a damaged catalog: it must equal the former one, but for evaluations if they are not run again.

    Returns what the command prints.
    """
    before = content(store, evaluated=evaluated)
    assert stale_records(store) == []
    damage(store)
    words = ("catalog", "rebuild", *(["--evaluate"] if evaluated else []), "--json")
    result = json.loads(run_command(store, *words).stdout)
    assert result["complete"]
    after = content(store, evaluated=evaluated)
    for table in before.keys() - ({"shard_checksums"} if not before["shard_checksums"] else set()):
        # A rebuild adds the checksums that an earlier version did not store.
        assert after[table] == [_tolerant(row) for row in before[table]], table
    assert len(after["shard_checksums"]) == len(after["shards"])
    assert stale_records(store) == ([] if evaluated else ["evaluations.json"])  # those to run remain recorded
    assert Path(result["former"]).read_bytes() == b"damaged"
    return dict(result)


def test_every_table_is_compared(training_store: Path) -> None:
    tables = {row["name"] for row in query_rows(training_store, "SELECT table_name AS name FROM duckdb_tables()")}
    assert tables == {*EXACT, *MAPPED, *EVALUATED}


def test_a_trained_store_is_rebuilt(cli: Run, trained: Trained) -> None:
    cli("embed", "--model", "tuned", "--split", "t/val")
    cli("eval", "--split", "t/val")
    cli("eval", "--model", "demo", "--split", "t/val", "--protocol", "paired-rows", "--captions", "first5")
    cli("eval", "--model", "tuned", "--split", "s/all", "--unseen", "--partial")
    result = check_rebuild(trained.store)
    assert [row["state"] for row in result["evaluations"]] == ["evaluated"] * 4
    cli("eval", "--model", "tuned", "--split", "t/val")
    cli("train", "--model", "tuned")


def test_evaluations_are_listed_with_the_commands_that_repeat_them(
    cli: Run, cli_json: Run, workspace: Path, store: Path
) -> None:
    words = ("eval", "--model", "demo", "--split", "t/val", "--captions", "first5", "--partial")
    cli(*words)
    before = query_rows(store, EVALUATED["ranks"])
    (row,) = check_rebuild(store, evaluated=False)["evaluations"]
    assert row["state"] == "to run"
    assert row["command"] == " ".join(["clipstore", *words])
    assert query_rows(store, "FROM evaluations") == []
    cli(*words)
    assert query_rows(store, EVALUATED["ranks"]) == before


@pytest.mark.full
def test_a_store_with_a_history_is_rebuilt(
    cli: Run, scenes: Path, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several datasets, removals, image files that are missing, damaged or gone, failures, imports that replace."""
    monkeypatch.chdir(tmp_path)
    coco = shutil.copytree(scenes, tmp_path / "coco")
    images = sorted((coco / "val").iterdir())
    images[0].write_bytes(b"no image")
    images[1].unlink()
    captions = {"a": {"a1": (1.0, 0.0), "a2": (0.0, 1.0)}, "b": {"b1": (1.0, 1.0)}}
    cli("ingest", "csv", write_dataset(tmp_path, "first", captions), "--name", "first")
    cli("ingest", "coco", coco, "--name", "c")
    cli("ingest", "csv", write_dataset(tmp_path, "c2", captions), "--name", "gone")
    (tmp_path / "elsewhere.csv").write_text(f"image_path,caption\n{images[2]},Some WORDS\n{images[3]},other words!\n")
    cli("ingest", "csv", "elsewhere.csv", "--name", "clean", "--clean", "--images", coco / "val")
    cli("split", "t", "--from", "c/val", "--validation", "0.25", "--images", 12)
    cli("model", "trained", "demo", "--split", "t/train", "--split", "gone/all")
    cli("dataset", "remove", "gone", "--yes")
    cli("embed", "--model", "demo", "--precision", "bf16", code=3)  # items failed
    images[4].unlink()
    cli("embed", "--model", "demo", "--split", "c/val", code=3)  # notes that a file is gone; its vectors stay
    for scale in (1.0, 2.0, 1.0):  # the third import repeats the first, and replaces the second
        vectors = {"a": (1.0, scale), "b": (0.0, 1.0)}
        import_vectors(store, "m", "first/all", vectors, {"a1": (1.0, 0.0), "b1": (scale, 1.0)})
    cli("eval", "--model", "m", "--split", "first/all", "--partial")
    check_rebuild(store)


def test_imported_vectors_are_the_last_ones(cli: Run, tmp_path: Path, store: Path) -> None:
    captions = {"a": {"a1": (1.0, 0.0)}, "b": {"b1": (1.0, 1.0)}}
    cli("ingest", "csv", write_dataset(tmp_path, "s", captions))
    for scale in (1.0, 3.0, 1.0):
        vectors = {"a": (1.0, scale), "b": (0.0, 1.0)}
        import_vectors(store, "m", "s/all", vectors, {"a1": (1.0, 0.0), "b1": (scale, 1.0)})
    for number, file in enumerate(sorted((store / "shards").rglob("*.h5"))):
        shutil.copy(file, tmp_path / str(number))  # copied, so that times say nothing about the order
        shutil.copy(tmp_path / str(number), file)
    before = content(store)
    damage(store)
    cli("catalog", "rebuild")
    assert content(store) == before


def test_a_missing_catalog_is_rebuilt(cli: Run, workspace: Path, store: Path) -> None:
    before = content(store)
    (store / "catalog.duckdb").unlink()
    assert "clipstore catalog rebuild" in cli("query", "metrics", code=1).stderr
    cli("catalog", "rebuild")
    assert content(store) == before
    assert not list(store.glob("*.damaged-*"))


def test_an_intact_catalog_without_records_gives_them(cli: Run, workspace: Path, store: Path) -> None:
    shutil.rmtree(store / "records")
    before = content(store)
    cli("catalog", "rebuild")
    assert content(store) == before
    shutil.rmtree(store / "records")
    cli("embed", "--model", "demo")
    assert stale_records(store) == []


def test_a_damaged_catalog_without_records_is_named(cli: Run, workspace: Path, store: Path) -> None:
    shutil.rmtree(store / "records")
    damage(store)
    message = cli("catalog", "rebuild", code=1).stderr
    assert "has no complete records" in message
    assert (store / "catalog.duckdb").read_bytes() == b"damaged"


def test_a_missing_source_changes_nothing(cli: Run, scenes: Path, tmp_path: Path, store: Path) -> None:
    coco = shutil.copytree(scenes, tmp_path / "coco")
    cli("ingest", "coco", coco, "--name", "c")
    before = content(store)
    coco.rename(tmp_path / "moved")
    damage(store)
    message = cli("catalog", "rebuild", code=1).stderr
    record = store / "records" / "datasets" / "c.json"
    assert str(record) in message
    assert (store / "catalog.duckdb").read_bytes() == b"damaged"
    record.write_text(record.read_text().replace(str(coco / "annotations"), str(tmp_path / "moved" / "annotations")))
    cli("catalog", "rebuild")
    after = content(store)
    assert after["captions"] == before["captions"]
    assert after["images"] == before["images"]


def test_a_changed_source_and_a_damaged_shard_are_named(cli: Run, tmp_path: Path, store: Path) -> None:
    captions = {"a": {"a1": (1.0, 0.0)}, "b": {"b1": (1.0, 1.0)}}
    file = write_dataset(tmp_path, "s", captions)
    cli("ingest", "csv", file)
    import_vectors(store, "m", "s/all", {"a": (1.0, 0.0)}, {"a1": (1.0, 0.0)})
    file.write_text(file.read_text().replace("b1", "b2"))
    shard = next(file for file in sorted((store / "shards").rglob("*.h5")) if file.name.startswith("text"))
    shard.write_bytes(shard.read_bytes()[:-100])
    damage(store)
    lines = cli("catalog", "rebuild", code=3).stdout.splitlines()
    assert any(line.startswith("s/all differs from what was ingested") for line in lines)
    assert any(line.startswith("not registered: ") and str(shard) in line for line in lines)
    assert query_rows(store, "SELECT tower FROM shards") == [{"tower": "image"}]


def test_a_first_ingest_without_the_catalog_keeps_the_former_records(cli: Run, tmp_path: Path, store: Path) -> None:
    for name in ("one", "two"):
        cli("ingest", "csv", write_dataset(tmp_path, name, {"a": {"a1": (1.0,)}}))
    (store / "catalog.duckdb").unlink()
    cli("ingest", "csv", tmp_path / "two.csv")
    assert [file.stem for file in (store / "records" / "datasets").iterdir()] == ["two"]
    former = store / "records.former-1" / "datasets"
    assert sorted(file.stem for file in former.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"dataset_id": "x"}', b"\xff"])
def test_a_damaged_record_is_named(cli: Run, tmp_path: Path, store: Path, content: bytes) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    record = store / "records" / "datasets" / "s.json"
    record.write_bytes(content)
    assert str(record) in cli("catalog", "rebuild", code=1).stderr
    assert not list(store.glob("*.damaged-*"))


@pytest.mark.parametrize("lost", ["models", "models/m.json", "images/s.json", "datasets/s.json"])
def test_a_missing_record_is_named(cli: Run, tmp_path: Path, store: Path, lost: str) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}, "b": {"b1": (1.0,)}}))
    import_vectors(store, "m", "s/all", {"a": (1.0, 0.0), "b": (0.0, 1.0)}, {"a1": (1.0, 0.0), "b1": (1.0, 1.0)})
    cli("eval", "--model", "m", "--split", "s/all")
    cli("split", "t", "--from", "s/all", "--validation", "0.5")
    (store / "records" / lost).rename(tmp_path / "lost")
    message = cli("catalog", "rebuild", code=1).stderr
    assert "missing" in message
    assert "restore a copy" in message
    assert not list(store.glob("*.damaged-*"))


FAR = 2**63 - 1


@pytest.mark.parametrize(
    ("record", "place", "value"),
    [
        ("datasets/s.json", ("name",), "t"),
        ("datasets/s.json", ("splits", 0, "source"), "a\0"),
        ("datasets/s.json", ("splits", 0, "split_id"), 2),
        ("datasets/s.json", ("splits", 0, "images"), [7]),
        ("datasets/s.json", ("splits", 0, "images"), [1, 1]),
        ("datasets/s.json", ("splits", 0, "positions"), [0]),
        ("datasets/s.json", ("caption_ids",), [[FAR, 1]]),
        ("images/s.json", ("image_id",), [1]),
        ("images/s.json", ("image_id",), [1, 1]),
        ("images/s.json", ("width",), []),
        ("images/s.json", ("width", 0), FAR),
        ("images/s.json", ("prefix", 0), 1),
        ("images/s.json", ("prefix", 0), -1),
        ("images/s.json", ("prefix", 0), None),
        ("splits/t.json", ("splits", 0, "images"), [7]),
        ("models/m.json", ("towers", 0, "tower"), "x"),
        ("evaluations.json", ("evaluations", 0, "protocol"), "x\0"),
    ],
)
def test_a_record_that_contradicts_the_others_is_refused(
    cli: Run, tmp_path: Path, store: Path, recorded: Path, record: str, place: tuple[str | int, ...], value: object
) -> None:
    shutil.copytree(recorded, store)
    file = store / "records" / record
    content = json.loads(file.read_text())
    entry = content
    for key in place[:-1]:
        entry = entry[key]
    entry[place[-1]] = value
    file.write_text(json.dumps(content))
    message = cli("catalog", "rebuild", code=1).stderr
    assert str(store / "records") in message
    assert len(message.splitlines()) == 1
    assert not list(store.glob("*.damaged-*"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a dataset of two images, a drawn split, imported vectors and an evaluation. Copy it."""
    folder = tmp_path_factory.mktemp("recorded")
    store = folder / "store"
    run_command(store, "ingest", "csv", write_dataset(folder, "s", {"a": {"a1": (1.0,)}, "b": {"b1": (1.0,)}}))
    import_vectors(store, "m", "s/all", {"a": (1.0, 0.0), "b": (0.0, 1.0)}, {"a1": (1.0, 0.0), "b1": (1.0, 1.0)})
    run_command(store, "eval", "--model", "m", "--split", "s/all")
    run_command(store, "split", "t", "--from", "s/all", "--validation", "0.5")
    return store


def test_runs_of_caption_ids_are_not_expanded_beyond_the_captions(cli: Run, store: Path, recorded: Path) -> None:
    """A run of 2^61 ids would need more memory than there is."""
    shutil.copytree(recorded, store)
    file = store / "records" / "datasets" / "s.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"caption_ids": [[1, 2**61]]}))
    cli("catalog", "rebuild")
    assert query_rows(store, "SELECT count(DISTINCT caption_id) AS captions FROM captions") == [{"captions": 2}]


def test_a_copy_of_a_record_and_a_named_pipe_are_refused(cli: Run, store: Path, recorded: Path) -> None:
    shutil.copytree(recorded, store)
    models = store / "records" / "models"
    shutil.copy(models / "m.json", models / "m copy.json")
    assert f"the record {models / 'm copy.json'} is that of 'm'" in cli("catalog", "rebuild", code=1).stderr
    (models / "m copy.json").unlink()
    (models / "m.json").unlink()
    os.mkfifo(models / "m.json")
    assert "named pipe" in cli("catalog", "rebuild", code=1).stderr


def test_a_failed_rebuild_leaves_the_catalog(store: Path, training_store: Path) -> None:
    shutil.copytree(training_store, store)
    before = sorted(file.name for file in store.iterdir())
    with pytest.raises(ZeroDivisionError), Catalog(store / "catalog.duckdb").replacement():
        1 / 0  # noqa: B018
    assert sorted(file.name for file in store.iterdir()) == sorted({*before, ".catalog.lock"})


KILLED = """
import os, signal, sys
from clipstore.cli import main
events = []
def kill(event, args):
    if event == "os.rename":
        events.append(event)
        if len(events) == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
main(["catalog", "rebuild"])
"""


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_at_a_rename_loses_nothing(cli: Run, tmp_path: Path, store: Path, renames: int) -> None:
    """At the first rename the former catalog is kept aside, at the second the new one gets its name."""
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    before = content(store)
    damage(store)
    words = [sys.executable, "-c", KILLED, str(renames)]
    assert subprocess.run(words, env=environment(store), check=False).returncode == -signal.SIGKILL
    assert (store / "catalog.duckdb").exists() == (renames == 1)
    assert "clipstore catalog rebuild" in cli("query", "metrics", code=1).stderr
    cli("catalog", "rebuild")
    assert content(store) == before
    assert [file.read_bytes() for file in store.glob("*.damaged-*")] == [b"damaged"]
    assert not list(store.glob(".*.tmp*"))


def test_a_catalog_that_is_open_is_not_replaced(
    cli: Run, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "BUSY_TIMEOUT_SECONDS", 0.1)
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    for read_only in (True, False):
        with held_catalog(store / "catalog.duckdb", read_only=read_only):
            assert "held by another process" in cli("catalog", "rebuild", code=1).stderr
    assert not list(store.glob("*.damaged-*"))


def test_a_store_into_which_another_process_writes_shards_is_not_rebuilt(cli: Run, tmp_path: Path, store: Path) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    with shard_write_lock(Store(store)):
        assert "is writing shards" in cli("catalog", "rebuild", code=1).stderr


def test_a_newer_format_of_the_records_is_refused_with_the_release(cli: Run, tmp_path: Path, store: Path) -> None:
    cli("ingest", "csv", write_dataset(tmp_path, "s", {"a": {"a1": (1.0,)}}))
    newer = recovery.FORMAT + 1
    (store / "records" / "store.json").write_text(json.dumps({"format": newer, "release": "9.9"}))
    assert "install clipstore 9.9 or a later one" in cli("catalog", "rebuild", code=1).stderr


def test_a_store_of_a_former_format_gets_records(cli: Run, store: Path) -> None:
    former = Path(__file__).parent.parent / "store" / "format_2"
    shutil.copytree(former / "shards", store / "shards")
    (store / "catalog.duckdb").write_bytes(gzip.decompress((former / "catalog.duckdb.gz").read_bytes()))
    source = str(former / "annotations" / "captions_val.json")
    with duckdb.connect(str(store / "catalog.duckdb")) as connection:
        connection.execute("UPDATE splits SET source = $source WHERE source IS NOT NULL", {"source": source})
    cli("eval", "--model", "imported", "--split", "scenes/val")
    check_rebuild(store)
