"""`clipstore verify` names every damage with shard, rows and items; --repair lets `embed` make the same bytes again."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import h5py
import pytest
from helpers import Trained, catalog_rows, import_vectors, run_command
from shard_files import INFO, content_keys, random_vectors

import clipstore
from clipstore.shards import write_shard
from clipstore.statements import statement_names

RunJson = Callable[..., Any]

FLIPS = 100


@pytest.fixture
def copied(training_store: Path, store: Path) -> Path:
    return Path(shutil.copytree(training_store, store))


def problems(store: Path, *words: str, code: int = 1) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(run_command(store, "verify", *words, "--json", code=code).stdout)[
        "problems"
    ]
    return result


def shard_bytes(store: Path) -> dict[Path, bytes]:
    return {path.relative_to(store): path.read_bytes() for path in sorted((store / "shards").rglob("*.h5"))}


def shard_file(store: Path, tower: str, kind: str = "vectors") -> Path:
    statement = f"SELECT file FROM shards WHERE tower = '{tower}' AND kind = '{kind}'"
    return store / clipstore.open(store).sql(statement)["file"][0].as_py()


def flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def row_place(path: Path, row: int) -> int:
    """The position of a row in the file."""
    with h5py.File(path) as file:
        values = file["values"]
        return int(values.id.get_offset() + row * values.shape[1] * values.dtype.itemsize)


def test_a_sound_store_has_no_problems(copied: Path) -> None:
    result = json.loads(run_command(copied, "verify", "--json").stdout)
    assert (result["problems"], result["remedies"], result["shards"]) == ([], [], 3)
    coverage = {(row["split"], row["kind"]): (row["items"], row["stored"], row["failed"]) for row in result["coverage"]}
    assert coverage["t/val", "images"] == (6, 6, 0)
    assert coverage["t/train", "captions"] == (90, 90, 0)
    assert "no problems" in run_command(copied, "verify").stdout


# ---- flipped bits ----


@pytest.mark.parametrize(
    ("tower", "kind", "row"), [("image", "vectors", 5), ("image", "features", 0), ("text", "vectors", 119)]
)
def test_a_flipped_bit_in_a_row_names_the_row_and_its_items(tower: str, kind: str, row: int, copied: Path) -> None:
    """The lowest bit of a value: its row remains of unit length."""
    path = shard_file(copied, tower, kind)
    flip(path, row_place(path, row) + 8)
    (problem,) = problems(copied)
    assert (problem["kind"], problem["file"], problem["rows"]) == ("damaged", str(path), [row])
    with h5py.File(path) as file:
        content = file["content"][row].decode()
    assert {(item["row"], item["kind"]) for item in problem["items"]} == {
        (row, "image" if tower == "image" else "caption")
    }
    assert {item["source_id"] for item in problem["items"]} == source_ids(copied, tower, content)
    text = run_command(copied, "verify", code=1)
    assert problem["items"][0]["source_id"] in text.stdout
    assert "1 problem in" in text.stderr


def source_ids(store: Path, tower: str, content: str) -> set[str]:
    table, items = ("images", "image_items") if tower == "image" else ("captions", "caption_items")
    key = f"{table[:-1]}_id"
    statement = f"SELECT source_id FROM {table} JOIN {items} USING ({key}) WHERE {items}.content = '{content}'"
    return set(clipstore.open(store).sql(statement)["source_id"].to_pylist())


def test_a_flipped_bit_in_a_content_key_names_the_row(copied: Path) -> None:
    path = shard_file(copied, "text")
    with h5py.File(path) as file:
        place = file["content"].id.get_offset() + 7 * 64 + 3
        bit = 0 if file["content"][7][3:4] in b"02468bd" else 1  # another hexadecimal digit
    flip(path, place, bit)
    (problem,) = problems(copied)
    assert problem["rows"] in ([7], None)  # None: the key is not hexadecimal any more
    assert problem["file"] == str(path)


def assert_flips_are_found_and_repaired(store: Path, count: int, seed: int) -> None:
    """Each flip is found in its file; --repair and embed give the same bytes in every file."""
    print(f"seed {seed}")
    chance, sound = random.Random(seed), shard_bytes(store)
    for _ in range(count):
        name = chance.choice(list(sound))
        place = chance.randrange(len(sound[name]))
        flip(store / name, place, chance.randrange(8))
        found = problems(store, "--repair", code=0)
        assert [problem["file"] for problem in found] == [str(store / name)], (name, place)
        assert found[0]["repaired"]
        run_command(store, "embed", "--model", "demo")
        assert shard_bytes(store) == sound, (name, place)
    assert problems(store, code=0) == []
    assert len(list((store / "quarantine").rglob("*.h5"))) == count


def test_flips_anywhere_are_found_and_repaired_to_the_same_bytes(copied: Path) -> None:
    assert_flips_are_found_and_repaired(copied, 3, seed=3)  # `make torture` draws others


@pytest.mark.full
def test_a_hundred_flips_are_found_and_repaired_to_the_same_bytes(copied: Path) -> None:
    assert_flips_are_found_and_repaired(copied, FLIPS, seed=15)


def test_keys_of_the_catalog_are_compared_with_those_of_unchanged_files(copied: Path) -> None:
    with duckdb.connect(str(copied / "catalog.duckdb")) as connection:
        shard = "shard_id = (SELECT shard_id FROM shards WHERE tower = 'text')"
        connection.execute(f"UPDATE vectors SET content = reverse(content) WHERE row IN (3, 8) AND {shard}")
        connection.execute("UPDATE shards SET checksum = reverse(checksum) WHERE kind = 'features'")
    found = {problem["file"]: problem for problem in problems(copied)}
    text, features = (found[str(shard_file(copied, *words))] for words in (("text",), ("image", "features")))
    assert (len(found), text["kind"], text["rows"], features["kind"]) == (2, "ids", [3, 8], "damaged")
    assert "checksum" in features["problem"]


def test_shards_without_recorded_checksums_are_checked_too(copied: Path) -> None:
    """As an earlier version registered them: the rows cannot be named, except where their length has changed."""
    with duckdb.connect(str(copied / "catalog.duckdb")) as connection:
        connection.execute("DELETE FROM shard_checksums")
    assert problems(copied, code=0) == []
    text, image = shard_file(copied, "text"), shard_file(copied, "image")
    flip(text, row_place(text, 3) + 8)
    flip(image, row_place(image, 4) + 3, bit=6)  # an exponent
    found = {problem["file"]: problem for problem in problems(copied)}
    assert found[str(text)]["rows"] is None
    assert found[str(image)]["rows"] == [4]


# ---- other damage ----


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def swap(path: Path) -> None:
    shutil.copy(next(other for other in path.parent.parent.rglob("*.h5") if other != path), path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "missing"),
    "truncated": (truncate, "damaged"),
    "swapped": (swap, "damaged"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "swapped" else pytest.mark.full) for name in DAMAGE]
)
def test_damaged_shards_are_set_aside_and_made_again(name: str, copied: Path) -> None:
    sound, path = shard_bytes(copied), shard_file(copied, "text")
    damage, kind = DAMAGE[name]
    damage(path)
    (problem,) = problems(copied)
    assert (problem["kind"], problem["file"]) == (kind, str(path))
    run_command(copied, "verify", "--repair")
    assert (
        "clipstore embed --model demo"
        in run_command(copied, "eval", "--model", "demo", "--split", "t/val", code=1).stderr
    )
    run_command(copied, "embed", "--model", "demo")
    assert shard_bytes(copied) == sound
    assert problems(copied, code=0) == []


def test_imported_vectors_have_to_be_imported_again(copied: Path) -> None:
    opened = clipstore.open(copied)
    sides = [dict(zip(*opened.vectors("demo", "t/val", kind), strict=True)) for kind in ("images", "captions")]
    import_vectors(copied, "mine", "t/val", *sides)
    fingerprint = opened.model("mine")["towers"][0]["fingerprint"]
    path = next((copied / "shards" / fingerprint).glob("*.h5"))
    sound = path.read_bytes()
    truncate(path)
    result = json.loads(run_command(copied, "verify", "--repair", "--json").stdout)
    assert result["remedies"] == ["clipstore import mine (imported vectors cannot be computed again)"]
    import_vectors(copied, "mine", "t/val", *sides)
    assert path.read_bytes() == sound
    assert problems(copied, code=0) == []


def test_other_files_are_listed(copied: Path) -> None:
    folder = shard_file(copied, "text").parent
    (folder / f".text-1.h5.{2**22 + 1}.tmp").write_bytes(b"left")
    (folder / "notes.txt").write_text("mine")
    shutil.copy(shard_file(copied, "text"), folder / "text-0123456789abcdef.h5")
    (folder / "text-1.h5").write_bytes(b"no shard")
    write_shard(copied / "shards" / INFO.fingerprint / "text-2.h5", INFO, random_vectors(), content_keys(20), {})
    expected = ["duplicate", "leftover", "orphan", "orphan", "unknown"]
    assert sorted(problem["kind"] for problem in problems(copied, code=0)) == expected
    run_command(copied, "verify", "--repair")
    assert sorted(problem["kind"] for problem in problems(copied, code=0)) == ["duplicate", "orphan", "unknown"]
    assert (copied / "quarantine" / folder.name / "text-1.h5").read_bytes() == b"no shard"


# ---- the catalog ----

BROKEN = {
    "captions_images": "DELETE FROM images WHERE image_id = 3",
    "vectors_shards": "DELETE FROM shards WHERE tower = 'text'",
    "vectors_rows": "UPDATE shards SET items = 5 WHERE tower = 'text'",
    "unique_vectors": "INSERT INTO vectors SELECT * FROM vectors LIMIT 1",
    "unique_shard_checksums_shard_id": "INSERT INTO shard_checksums SELECT * FROM shard_checksums LIMIT 1",
    "unique_split_images_position": "UPDATE split_images SET position = 0",
    "towers_models": "DELETE FROM models",
    "store_format_rows": "INSERT INTO store_format SELECT * FROM store_format",
    "hard_pairs_positives": "INSERT INTO hard_pairs SELECT image_id, 's', -1, caption_id FROM captions LIMIT 1",
    "unique_hard_pairs": "INSERT INTO hard_pairs SELECT image_id, 's', caption_id, caption_id FROM captions LIMIT 1",
    "hard_scores_evaluations": "INSERT INTO hard_scores VALUES (-1, 1, 2, 0, 0)",
    "splits_origins": "DELETE FROM splits WHERE name = 's/all'",
}


@pytest.mark.parametrize("name", BROKEN)
def test_rows_of_the_catalog_that_contradict_others_are_found(name: str, copied: Path) -> None:
    with duckdb.connect(str(copied / "catalog.duckdb")) as connection:
        connection.execute(BROKEN[name])
    assert f"consistency/{name}" in statement_names("consistency")
    tables = {problem["table"] for problem in problems(copied) if problem["kind"] == "catalog"}
    statement = next(row for row in run_statements(copied) if row["name"] == name)
    assert statement["rows"] > 0
    assert statement["table"] in tables


def run_statements(store: Path) -> list[dict[str, Any]]:
    from clipstore.catalog import Catalog

    with Catalog(store / "catalog.duckdb").read() as session:
        return [{"name": name.split("/")[1], **session.rows(name)[0]} for name in statement_names("consistency")]


def test_every_consistency_check_runs_on_an_evaluated_store(copied: Path) -> None:
    run_command(copied, "eval", "--model", "demo", "--split", "t/val")
    assert [row for row in run_statements(copied) if row["rows"]] == []
    assert catalog_rows(copied, ["ranks"])["ranks"]


# ---- adapters ----


def test_files_of_adapters_are_compared_with_their_checksums(trained_store: Trained, store: Path) -> None:
    shutil.copytree(trained_store.store, store)
    assert problems(store, code=0) == []
    best, last = (store / "adapters" / "tuned" / name for name in ("best", "last"))
    flip(best / "adapter_model.safetensors", -3)
    truncate(last / "training.json")
    (last / "training_images.txt").unlink()
    found = {Path(problem["file"]).relative_to(store / "adapters" / "tuned"): problem for problem in problems(store)}
    assert {str(path) for path in found} == {
        "best/adapter_model.safetensors",
        "last/training.json",
        "last/training_images.txt",
    }
    assert {problem["kind"] for problem in found.values()} == {"adapter"}


def test_a_named_pipe_in_place_of_checksums_is_not_waited_for(copied: Path) -> None:
    best = copied / "adapters" / "x" / "best"
    best.mkdir(parents=True)
    os.mkfifo(best / "SHA256SUMS")
    (problem,) = problems(copied)
    assert problem["file"] == str(best / "SHA256SUMS")
    assert problem["problem"] == "it is not a regular file"
