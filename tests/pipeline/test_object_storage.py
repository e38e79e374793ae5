"""A store with its shards on object storage, against an S3 server on loopback: equal to a local one, and failures."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blip_folder import write_random_blip
from click.testing import Result
from helpers import catalog_rows, command_line, environment, query_rows, run_command, stored_vectors, write_job
from object_server import BUCKET, ObjectServer

from clipstore import objects as clients
from clipstore import shards
from clipstore.shards.cache import cache_folder

Run = Callable[..., Result]
RunJson = Callable[..., Any]

URL = f"s3://{BUCKET}/prefix"
SPLIT = "coco/val"
RANKS = "SELECT * EXCLUDE (evaluation_id) FROM {} ORDER BY ALL"


@dataclass(frozen=True)
class Remote:
    """A store that was embedded on the server: its folder, the objects, and a local store with the same content."""

    store: Path
    objects: dict[str, bytes]
    local: Path


@pytest.fixture(scope="module")
def embedded(_object_server: ObjectServer, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Remote:
    root = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _object_server.environment().items():
            patch.setenv(name, value)
        patch.setenv("CLIPSTORE_CACHE", str(root / "cache"))
        _object_server.clear()
        run_command(root / "store", "store", "init", "--shards", f"{URL}/")
        for store in (root / "store", root / "local"):
            run_command(store, "ingest", "coco", scenes, "--name", "coco")
            run_command(store, "embed", "--model", "demo")
            run_command(store, "eval", "--model", "demo", "--split", SPLIT)
        objects = {key: _object_server.read(key) for key in _object_server.list_keys()}
    return Remote(root / "store", objects, root / "local")


@pytest.fixture
def remote(embedded: Remote, objects: ObjectServer, store: Path) -> Remote:
    """The objects are on the server, the test's store has the catalog, the cache is empty."""
    shutil.copytree(embedded.store, store)
    for key, content in embedded.objects.items():
        objects.write(key, content)
    objects.requests.clear()
    shards.clear_checks()
    return embedded


def shard_keys(server: ObjectServer) -> list[str]:
    return [key for key in server.list_keys("prefix/") if key.endswith(".h5")]


def text_shard(server: ObjectServer) -> str:
    return next(key for key in shard_keys(server) if "/text-" in key)


def cached_bytes() -> int:
    return sum(file.stat().st_size for file in cache_folder().rglob("*") if file.is_file())


def same_vectors(one: Path, other: Path) -> bool:
    return all(
        stored_vectors(one, items).tobytes() == stored_vectors(other, items).tobytes()
        for items in ("images", "captions")
    )


# ---- as a local store ----


def test_vectors_and_ranks_equal_those_of_a_local_store(remote: Remote, objects: ObjectServer, store: Path) -> None:
    assert same_vectors(store, remote.local)
    for table in ("ranks", "hits"):
        assert query_rows(store, RANKS.format(table)) == query_rows(remote.local, RANKS.format(table))
    local = {str(file.relative_to(remote.local)): file.read_bytes() for file in remote.local.glob("shards/*/*.h5")}
    assert {key.removeprefix("prefix/"): objects.read(key) for key in shard_keys(objects)} == local
    assert not list(store.glob("shards/*"))


def test_verify_info_gc_and_rebuild(remote: Remote, objects: ObjectServer, store: Path, cli_json: RunJson) -> None:
    result = cli_json("verify")
    assert (result["shards"], result["problems"]) == (3, [])
    assert cli_json("info")["bytes"]["shards"] == result["bytes"]
    assert cli_json("gc")["bytes"] == 0
    before = catalog_rows(store, ("shards", "vectors", "shard_checksums"))
    assert cli_json("catalog", "rebuild", "--evaluate")["complete"]
    numbers = {row["shard_id"]: row["file"] for row in catalog_rows(store, ("shards",))["shards"]}
    assert set(numbers.values()) == {row["file"] for row in before["shards"]}
    assert len(catalog_rows(store, ("vectors",))["vectors"]) == len(before["vectors"])
    assert same_vectors(store, remote.local)


def test_gc_removes_the_objects_of_a_removed_model(remote: Remote, objects: ObjectServer, cli: Run) -> None:
    cli("model", "remove", "demo", "--yes")
    cli("gc", "--delete")
    assert objects.list_keys() == ["prefix/store.json"]


def test_nothing_is_embedded_or_written_twice(remote: Remote, objects: ObjectServer, cli: Run) -> None:
    cli("embed", "--model", "demo")
    assert not [request for request in objects.requests if request[0] == "PUT"]


@pytest.mark.cluster
def test_training_from_features_on_object_storage(
    objects: ObjectServer, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    monkeypatch.chdir(tmp_path)
    write_job("tuned")
    run_command(tmp_path / "remote", "store", "init", "--shards", URL)
    for store in (tmp_path / "remote", tmp_path / "local"):
        run_command(store, "ingest", "coco", scenes, "--name", "s")
        run_command(store, "split", "t", "--from", "s/val", "--validation", "0.25")
        run_command(store, "train", "--model", "tuned")
        run_command(store, "embed", "--model", "tuned")
    for items in ("images", "captions"):
        one, other = (
            stored_vectors(tmp_path / name, items, model="tuned", split="t/val") for name in ("remote", "local")
        )
        assert one.tobytes() == other.tobytes()


@pytest.mark.cluster
def test_worker_processes_write_to_object_storage(remote: Remote, objects: ObjectServer, cli: Run, store: Path) -> None:
    cli("model", "remove", "demo", "--yes")
    cli("gc", "--delete")
    words = command_line("embed", "--model", "demo", "--device", "cpu", "--device", "cpu")
    subprocess.run(words, env=environment(store), check=True, capture_output=True)
    assert len(shard_keys(objects)) == 3
    assert np.allclose(stored_vectors(store, "captions"), stored_vectors(remote.local, "captions"), atol=1e-5)


@pytest.mark.cluster
def test_score_shards_on_object_storage(
    remote: Remote, objects: ObjectServer, store: Path, tmp_path: Path, cli_json: RunJson
) -> None:
    write_random_blip(tmp_path / "blip", words=["red", "blue", "circle", "square", "a", "and"])
    shutil.copytree(remote.local, tmp_path / "local")
    for folder in (store, tmp_path / "local"):
        run_command(folder, "model", "add", "blip", "--base", tmp_path / "blip")
        run_command(folder, "rerank", "--model", "blip", "--split", SPLIT, "--first", "demo", "--top", 5)
        run_command(folder, "eval", "--model", "demo", "--split", SPLIT, "--rerank", "blip", "--top", 5)
    assert len(objects.list_keys("prefix/scores/")) == len(list((tmp_path / "local").glob("scores/*/*.h5"))) > 0
    assert query_rows(store, RANKS.format("hits")) == query_rows(tmp_path / "local", RANKS.format("hits"))
    result = cli_json("verify")
    assert (result["problems"], result["score_shards"]) == ([], 1)
    assert cli_json("catalog", "rebuild", "--evaluate")["complete"]
    objects.s3.delete_object(Bucket=BUCKET, Key=objects.list_keys("prefix/scores/")[0])
    assert [row["kind"] for row in cli_json("verify", "--repair")["problems"]] == ["scores"]
    run_command(store, "rerank", "--model", "blip", "--split", SPLIT, "--first", "demo", "--top", 5)
    assert len(objects.list_keys("prefix/scores/")) == 1


# ---- a server that fails ----


def every_fifth(_server: ObjectServer, number: int, _request: tuple[str, str]) -> int | None:
    return (500 if number % 2 else 503) if number % 5 == 0 else None


def each_once(server: ObjectServer, _number: int, request: tuple[str, str]) -> int | None:
    return 503 if server.requests.count(request) == 1 else None


@pytest.mark.parametrize("rule", [every_fifth, pytest.param(each_once, marks=pytest.mark.cluster)])
def test_a_server_that_fails(
    rule: Callable[..., int | None], objects: ObjectServer, scenes: Path, store: Path, cli: Run
) -> None:
    objects.refuse = lambda number, method, path: rule(objects, number, (method, path))
    cli("store", "init", "--shards", URL)
    cli("ingest", "coco", scenes, "--name", "coco")
    cli("embed", "--model", "demo")
    shutil.rmtree(cache_folder())
    cli("eval", "--model", "demo", "--split", SPLIT)
    cli("verify")
    assert len(objects.requests) > 40
    assert len(shard_keys(objects)) == 3


def test_a_truncated_object_is_named_and_repaired(
    remote: Remote, objects: ObjectServer, store: Path, cli: Run, cli_json: RunJson
) -> None:
    key = text_shard(objects)
    objects.write(key, objects.read(key)[:-100])
    error = cli("eval", "--model", "demo", "--split", SPLIT, code=1).stderr
    assert f"s3://{BUCKET}/{key} is damaged" in error
    assert "verify --repair" in error
    assert f"s3://{BUCKET}/{key}" in cli("verify", code=1).stdout.replace("\n", "").replace(" ", "")
    found = cli_json("verify", "--repair")["problems"]
    assert [(row["kind"], row["file"]) for row in found] == [("damaged", f"s3://{BUCKET}/{key}")]
    assert [file.name for file in store.glob("quarantine/*/*.h5")] == [Path(key).name]
    assert key not in objects.list_keys()
    cli("embed", "--model", "demo")
    assert objects.read(key) == remote.objects[key]
    assert same_vectors(store, remote.local)


def test_a_changed_object_is_found_though_the_cache_has_the_former_one(
    remote: Remote, objects: ObjectServer, store: Path, cli: Run
) -> None:
    stored_vectors(store, "captions")
    key = text_shard(objects)
    objects.write(key, objects.read(key)[::-1])
    assert "damaged" in cli("verify", code=1).stdout
    objects.s3.delete_object(Bucket=BUCKET, Key=key)
    assert "missing" in cli("verify", code=1).stdout


def test_a_missing_object_is_embedded_again(remote: Remote, objects: ObjectServer, store: Path, cli: Run) -> None:
    key = text_shard(objects)
    objects.s3.delete_object(Bucket=BUCKET, Key=key)
    assert f"{key} does not exist" in cli("eval", "--model", "demo", "--split", SPLIT, code=1).stderr
    cli("embed", "--model", "demo")
    assert objects.read(key) == remote.objects[key]


def test_killed_between_put_and_register(
    objects: ObjectServer, scenes: Path, store: Path, cli: Run, cli_json: RunJson
) -> None:
    cli("store", "init", "--shards", URL)
    cli("ingest", "coco", scenes, "--name", "coco")
    put: list[str] = []
    with subprocess.Popen(command_line("embed", "--model", "demo"), env=environment(store)) as process:

        def kill_after_the_first_put(_number: int, method: str, path: str) -> int | None:
            if put and process.returncode is None:
                process.send_signal(signal.SIGKILL)
                return 500
            if method == "PUT" and path.endswith(".h5"):
                put.append(path)
            return None

        objects.refuse = kill_after_the_first_put
        assert process.wait() == -signal.SIGKILL
    objects.refuse = lambda _number, _method, _path: None
    objects.requests.clear()
    assert query_rows(store, "FROM shards") == []
    assert [f"/{BUCKET}/{key}" for key in shard_keys(objects)] == put
    cli("embed", "--model", "demo")
    again = [path for method, path in objects.requests if method == "PUT"]
    assert len(again) == 2
    assert put[0] not in again
    assert cli_json("verify")["problems"] == []


# ---- the cache ----


def test_a_cache_smaller_than_the_vectors(
    remote: Remote, objects: ObjectServer, store: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 50_000  # the image and the text shard have 58 kB together
    monkeypatch.setenv("CLIPSTORE_CACHE_SIZE", str(limit))
    cli("eval", "--model", "demo", "--split", SPLIT)
    assert same_vectors(store, remote.local)
    assert query_rows(store, "SELECT DISTINCT value FROM metrics WHERE metric = 'rsum'") == query_rows(
        remote.local, "SELECT DISTINCT value FROM metrics WHERE metric = 'rsum'"
    )
    fetched = [path for method, path in objects.requests if method == "GET" and path.endswith(".h5")]
    assert len(fetched) > len(set(fetched))
    assert 0 < cached_bytes() <= limit


def test_a_cached_file_is_not_fetched_again_unless_it_is_damaged(
    remote: Remote, objects: ObjectServer, store: Path
) -> None:
    stored_vectors(store, "captions")
    objects.requests.clear()
    stored_vectors(store, "captions")
    assert objects.requests == []
    file = next(cache_folder().rglob("text-*.h5"))
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    assert same_vectors(store, remote.local)
    assert [method for method, path in objects.requests if path.endswith(file.name)] == ["HEAD", "GET"]


_READ = """
import sys, clipstore
store = clipstore.open(sys.argv[1])
for _ in range(2):
    for items in ("images", "captions"):
        sys.stdout.buffer.write(store.vectors("demo", "coco/val", items)[1].tobytes())
"""


def test_two_processes_share_a_small_cache(
    remote: Remote, objects: ObjectServer, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSTORE_CACHE_SIZE", "50000")
    processes = [
        subprocess.Popen([sys.executable, "-c", _READ, str(store)], env=environment(store), stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    expected = b"".join(stored_vectors(remote.local, items).tobytes() for items in ("images", "captions")) * 2
    assert [process.communicate()[0] == expected for process in processes] == [True, True]
    assert cached_bytes() <= 50_000
    assert not list(cache_folder().rglob("*.tmp"))


# ---- bad input ----


def test_a_bucket_that_does_not_exist(objects: ObjectServer, cli: Run) -> None:
    error = cli("store", "init", "--shards", "s3://nowhere/prefix", code=1).stderr
    assert "the bucket s3://nowhere does not exist" in error


def test_a_bucket_that_may_not_be_written(remote: Remote, objects: ObjectServer, store: Path, cli: Run) -> None:
    cli("model", "remove", "demo", "--yes")
    cli("gc", "--delete")
    objects.refuse = lambda _number, method, _path: 403 if method == "PUT" else None
    error = cli("embed", "--model", "demo", code=1).stderr
    assert f"access to {URL}/shards/" in error
    assert "to write it" in error
    other = run_command(store.with_name("other"), "store", "init", "--shards", f"s3://{BUCKET}/other", code=1)
    assert "is denied" in other.stderr


def test_the_prefix_of_another_store(objects: ObjectServer, store: Path, cli: Run) -> None:
    cli("store", "init", "--shards", URL)
    cli("store", "init", "--shards", URL)
    error = run_command(store.with_name("other"), "store", "init", "--shards", URL, code=1).stderr
    assert "another store" in error


def test_shards_that_exist_keep_their_place(remote: Remote, objects: ObjectServer, cli: Run) -> None:
    assert URL in cli("store", "init", "--shards", f"s3://{BUCKET}/elsewhere", code=1).stderr
    local = run_command(remote.local, "store", "init", "--shards", URL, code=1).stderr
    assert "cannot be moved" in local


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without long waits, by new clients."""
    monkeypatch.setattr(clients, "_FIRST_WAIT", 0.001)
    monkeypatch.setattr(clients, "_LONGEST_WAIT", 0.001)
    monkeypatch.setattr(clients, "_clients", {})


def test_the_extra_is_not_installed(
    objects: ObjectServer, cli: Run, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "pip install 'clipstore[s3]'" in cli("store", "init", "--shards", URL, code=1).stderr


def test_a_server_that_does_not_answer(
    objects: ObjectServer, cli: Run, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    error = cli("store", "init", "--shards", URL, code=1).stderr
    assert "after several attempts" in error
    assert "AWS_ENDPOINT_URL" in error


def test_credentials_are_missing(objects: ObjectServer, cli: Run, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    error = cli("store", "init", "--shards", URL, code=1).stderr
    assert "no credentials" in error
    assert "AWS_ACCESS_KEY_ID" in error


def test_no_network_is_used_offline(objects: ObjectServer, cli: Run) -> None:
    assert "offline" in cli("--offline", "store", "init", "--shards", URL, code=1).stderr
    assert objects.requests == []


@pytest.mark.parametrize("name", ["CLIPSTORE_CACHE_SIZE", "CLIPSTORE_CACHE"])
def test_a_cache_that_cannot_be_used(
    name: str, remote: Remote, objects: ObjectServer, tmp_path: Path, cli: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(name, str(tmp_path / "file"))
    assert name in cli("eval", "--model", "demo", "--split", SPLIT, code=1).stderr


def test_json_of_init(objects: ObjectServer, store: Path, cli_json: RunJson) -> None:
    assert cli_json("store", "init", "--shards", f"{URL}//")["shards"] == URL
    assert json.loads((store / "store.json").read_text())["shards"] == URL
    assert json.loads(objects.read("prefix/store.json"))["id"] == json.loads((store / "store.json").read_text())["id"]


@pytest.mark.usefixtures("objects")
def test_plans_made_before_the_shards_moved_are_refused(scenes: Path, cli: Run, store: Path, tmp_path: Path) -> None:
    cli("ingest", "coco", scenes)
    cli("plan", "--model", "demo", "--only", "images", "--out", tmp_path / "plans")
    cli("store", "init", "--shards", URL)
    error = cli("encode", tmp_path / "plans", code=1).stderr
    assert f"are in {URL}, and in its folder by the plan" in error
    assert not (store / "shards").exists()
