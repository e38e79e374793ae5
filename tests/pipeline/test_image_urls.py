"""Images on object storage: ingested with their URLs, embedded as local files are."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from helpers import query_rows, run_command, stored_vectors
from object_server import BUCKET, ObjectServer
from PIL import Image

Run = Callable[..., Result]

ROOT = f"s3://{BUCKET}/images"


@pytest.fixture
def uploaded(objects: ObjectServer, scenes: Path) -> list[Path]:
    """The images of the scenes, which are below ROOT too."""
    files = sorted((scenes / "val").iterdir())
    for file in files:
        objects.write(f"images/{file.name}", file.read_bytes())
    objects.requests.clear()
    return files


def reads(server: ObjectServer, name: str = "") -> list[str]:
    return [path for method, path in server.requests if method == "GET" and path.endswith(name or ".jpg")]


def test_vectors_equal_those_of_local_files(
    uploaded: list[Path], objects: ObjectServer, scenes: Path, store: Path, cli: Run
) -> None:
    local = store.with_name("local")
    for folder, words in ((store, ["--images", ROOT]), (local, [])):
        run_command(folder, "ingest", "coco", scenes, "--name", "coco", *words)
        run_command(folder, "embed", "--model", "demo")
    assert stored_vectors(store, "images").tobytes() == stored_vectors(local, "images").tobytes()
    paths = {row["path"] for row in query_rows(store, "SELECT path FROM images")}
    assert paths == {f"{ROOT}/{file.name}" for file in uploaded}
    objects.requests.clear()
    cli("embed", "--model", "demo")
    assert reads(objects) == []  # size and time of writing are those recorded
    cli("catalog", "rebuild")
    assert stored_vectors(store, "images").tobytes() == stored_vectors(local, "images").tobytes()
    cli("embed", "--model", "demo")
    assert reads(objects) == []


@pytest.mark.usefixtures("uploaded")
def test_plan_files_of_objects(scenes: Path, store: Path, cli: Run, tmp_path: Path) -> None:
    local, plans = store.with_name("local"), tmp_path / "plans"
    cli("ingest", "coco", scenes, "--name", "coco", "--images", ROOT)
    cli("plan", "--model", "demo", "--only", "images", "--out", plans)
    cli("encode", plans)
    cli("register", plans)
    run_command(local, "ingest", "coco", scenes, "--name", "coco")
    run_command(local, "embed", "--model", "demo", "--only", "images")
    assert stored_vectors(store, "images").tobytes() == stored_vectors(local, "images").tobytes()


def test_missing_and_changed_objects(
    uploaded: list[Path], objects: ObjectServer, scenes: Path, store: Path, cli: Run
) -> None:
    objects.s3.delete_object(Bucket=BUCKET, Key=f"images/{uploaded[0].name}")
    cli("ingest", "coco", scenes, "--name", "coco", "--images", ROOT)
    cli("embed", "--model", "demo", "--allow-failures", "1")
    assert query_rows(store, "SELECT problem FROM images WHERE problem IS NOT NULL") == [
        {"problem": "the image file is missing"}
    ]
    assert len(stored_vectors(store, "images")) == len(uploaded) - 1
    Image.new("RGB", (64, 48), (200, 30, 30)).save(store.with_name("red.jpg"))
    objects.write(f"images/{uploaded[1].name}", store.with_name("red.jpg").read_bytes())
    objects.requests.clear()
    cli("embed", "--model", "demo", "--allow-failures", "1")
    assert set(reads(objects)) == {f"/{BUCKET}/images/{uploaded[1].name}"}
    assert len(stored_vectors(store, "images")) == len(uploaded) - 1


def test_a_csv_file_and_a_server_that_fails(
    uploaded: list[Path], objects: ObjectServer, tmp_path: Path, store: Path, cli: Run
) -> None:
    with (tmp_path / "c.csv").open("w", newline="") as file:
        rows = [(path.name, f"caption {number}") for number, path in enumerate(uploaded[:6])]
        csv.writer(file).writerows([("image_path", "caption"), *rows])
    objects.refuse = lambda number, _method, _path: 503 if number % 5 == 0 else None
    cli("ingest", "csv", tmp_path / "c.csv", "--images", ROOT, "--name", "coco")
    cli("embed", "--model", "demo")
    assert len(stored_vectors(store, "images", split="coco/all")) == 6


def test_images_that_may_not_be_read(uploaded: list[Path], objects: ObjectServer, scenes: Path, cli: Run) -> None:
    cli("ingest", "coco", scenes, "--name", "coco", "--images", ROOT)
    objects.refuse = lambda _number, method, _path: 403 if method in ("GET", "HEAD") else None
    assert f"access to {ROOT}/" in cli("embed", "--model", "demo", code=1).stderr
    assert "is denied" in cli("ingest", "coco", scenes, "--name", "coco", "--images", ROOT, code=1).stderr


def test_a_bucket_of_images_that_does_not_exist(objects: ObjectServer, scenes: Path, cli: Run) -> None:
    error = cli("ingest", "coco", scenes, "--name", "coco", "--images", "s3://nowhere/images", code=1).stderr
    assert "the bucket s3://nowhere does not exist" in error
