"""`clipstore embed` does what is missing and no more, survives being killed, and records what it cannot do."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from clip_folder import build_lora
from helpers import environment, run_command
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

import clipstore
from clipstore.demo.scenes import draw_dataset
from clipstore.pipeline.embed import plan
from clipstore.records import TowerName
from clipstore.shards import normalize

Run = Callable[..., Any]

SPLIT = "coco/val"
SAME = 1e-6  # vectors that are computed again on the same machine, in the same batches


@pytest.fixture(scope="module")
def prepared(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn scenes, and the stores `ingested` and `embedded` of them."""
    place = tmp_path_factory.mktemp("prepared")
    shutil.copytree(scenes, place / "scenes")
    run_command(place / "ingested", "ingest", "coco", place / "scenes")
    shutil.copytree(place / "ingested", place / "embedded")
    run_command(place / "embedded", "embed", "--model", "demo")
    return place


@pytest.fixture
def root(prepared: Path, scenes: Path) -> Path:
    """The drawn scenes (24 images, 120 captions), as they were before another test changed them."""
    shutil.rmtree(prepared / "scenes")
    return Path(shutil.copytree(scenes, prepared / "scenes"))


@pytest.fixture
def ingested(prepared: Path, root: Path, store: Path) -> Path:
    """This test's store with the drawn scenes."""
    return Path(shutil.copytree(prepared / "ingested", store))


@pytest.fixture
def embedded(prepared: Path, root: Path, store: Path) -> Path:
    """The same, embedded with the bundled model."""
    return Path(shutil.copytree(prepared / "embedded", store))


def embed(cli_json: Run, *words: object, model: str = "demo") -> dict[str, dict[str, Any]]:
    """The summary of an embed run, by tower."""
    return {row["tower"]: row for row in cli_json("embed", "--model", model, *words)["embedded"]}


def counts(summary: dict[str, Any]) -> dict[str, int]:
    return {key: summary[key] for key in ("planned", "done", "reused", "failed", "missing")}


def all_done(items: int) -> dict[str, int]:
    return {"planned": items, "done": items, "reused": 0, "failed": 0, "missing": 0}


def all_reused(items: int) -> dict[str, int]:
    return {"planned": 0, "done": 0, "reused": items, "failed": 0, "missing": 0}


def vectors(store: Path, what: str, *, model: str = "demo", split: str = SPLIT) -> NDArray[Any]:
    return clipstore.open(store).vectors(model, split, what)[1]


def ask(store: Path, statement: str) -> list[dict[str, Any]]:
    return clipstore.open(store).sql(statement).to_pylist()


def shard_files(store: Path) -> dict[str, tuple[int, int]]:
    """Every file below shards/, with what changes when it is written again."""
    files = [path for path in (store / "shards").rglob("*") if path.is_file()]
    return {str(path.relative_to(store)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


# What is missing, and no more


def test_embed_fills_both_towers_once(ingested: Path, cli_json: Run) -> None:
    distinct = ask(ingested, "SELECT count(DISTINCT text) AS n FROM captions")[0]["n"]
    first = embed(cli_json, "--split", SPLIT)
    assert counts(first["image"]) == all_done(24)
    assert counts(first["text"]) == all_done(distinct)
    files = shard_files(ingested)
    assert sum(row["size"] for row in first.values()) == sum((ingested / name).stat().st_size for name in files)
    again = embed(cli_json, "--split", SPLIT)
    assert (counts(again["image"]), counts(again["text"])) == (all_reused(24), all_reused(distinct))
    assert shard_files(ingested) == files


def test_vectors_have_unit_length_and_stand_for_all_items(embedded: Path, cli_json: Run) -> None:
    images, texts = vectors(embedded, "images"), vectors(embedded, "captions")
    assert (images.shape, texts.shape) == ((24, 64), (120, 64))
    for values in (images, texts):
        assert values.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(values.astype(np.float64), axis=1), 1, atol=1e-6)


_LOADED = """
import sys
from clipstore.cli import main
for store in sys.argv[1:]:
    main(["embed", "--model", "demo", "--store", store], standalone_mode=False)
    print("loaded", *[name for name in ("torch", "transformers", "peft", "h5py") if name in sys.modules])
"""


def test_a_run_with_nothing_to_do_loads_no_torch(embedded: Path, prepared: Path, tmp_path: Path) -> None:
    other = shutil.copytree(prepared / "ingested", tmp_path / "other")
    words = [sys.executable, "-c", _LOADED, str(embedded), str(other)]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    nothing_to_do, something = (set(line.split()) for line in lines if line.startswith("loaded"))
    assert not nothing_to_do & {"torch", "transformers", "peft"}
    assert "torch" in something


def test_only_one_tower(ingested: Path, cli_json: Run) -> None:
    assert list(embed(cli_json, "--only", "captions")) == ["text"]
    assert list(embed(cli_json, "--only", "images")) == ["image"]
    assert vectors(ingested, "images").shape[0] == 24


def test_a_split_alone_and_then_the_rest(cli: Run, cli_json: Run, root: Path, tmp_path: Path, store: Path) -> None:
    draw_dataset(root, images=10, seed=5, split="more", first=25)
    cli("ingest", "coco", root)
    assert counts(embed(cli_json, "--split", SPLIT)["image"]) == all_done(24)
    rest = embed(cli_json)["image"]
    assert (rest["reused"], rest["done"]) == (24, 10)
    assert vectors(store, "images", split="coco/more").shape[0] == 10


def test_a_dry_run_writes_no_vectors(ingested: Path, cli_json: Run) -> None:
    told = embed(cli_json, "--dry-run")
    assert (told["image"]["planned"], told["image"]["done"]) == (24, 0)
    assert told["image"]["size"] == 24 * (64 + 128) * 4
    assert told["text"]["size"] == told["text"]["planned"] * 64 * 4
    assert told["text"]["estimate"] > 0
    assert not shard_files(ingested)
    assert ask(ingested, "SELECT * FROM vectors") == []
    assert counts(embed(cli_json)["image"]) == all_done(24)


def test_half_size_vectors_are_the_rounded_ones(embedded: Path, cli_json: Run, root: Path) -> None:
    single = vectors(embedded, "captions")
    shutil.rmtree(embedded / "shards")
    (embedded / "catalog.duckdb").unlink()
    cli_json("ingest", "coco", root)
    embed(cli_json, "--store-dtype", "float16")
    half = vectors(embedded, "captions")
    assert half.dtype == np.float16
    np.testing.assert_allclose(half.astype(np.float32), single, atol=6e-4)
    assert {row["dtype"] for row in ask(embedded, "SELECT dtype FROM shards WHERE kind = 'features'")} == {"float32"}


def test_less_memory_gives_the_same_vectors(
    embedded: Path, cli: Run, cli_json: Run, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    cli("ingest", "coco", root, "--store", other)
    embed(cli_json, "--memory", "10MB", "--store", other)
    for what in ("images", "captions"):
        np.testing.assert_allclose(vectors(other, what), vectors(embedded, what), atol=1e-5)


# What decides that an item is new


def test_two_photos_with_the_same_bytes_share_a_vector(root: Path, cli: Run, cli_json: Run, store: Path) -> None:
    one, other = sorted((root / "val").iterdir())[:2]
    shutil.copy(one, other)
    cli("ingest", "coco", root)
    assert counts(embed(cli_json)["image"]) == all_done(23)
    values = vectors(store, "images")
    assert np.array_equal(values[0], values[1])
    assert not np.allclose(values[0], values[2])
    assert (
        ask(store, "SELECT count(*) AS n FROM vectors JOIN shards USING (shard_id) WHERE tower = 'image'")[0]["n"] == 46
    )


def test_a_changed_photo_gets_a_new_vector(embedded: Path, root: Path, cli_json: Run) -> None:
    before = vectors(embedded, "images")
    photo = sorted((root / "val").iterdir())[3]
    Image.open(photo).transpose(Image.Transpose.ROTATE_180).save(photo)
    again = embed(cli_json)
    assert (again["image"]["done"], again["image"]["reused"], again["text"]["done"]) == (1, 23, 0)
    moved = np.abs(vectors(embedded, "images") - before).max(axis=1) > 1e-6
    assert np.flatnonzero(moved).tolist() == [3]


def test_a_touched_photo_is_looked_at_and_found_the_same(embedded: Path, root: Path, cli_json: Run) -> None:
    for photo in (root / "val").iterdir():
        os.utime(photo, ns=(1, 1))
    assert counts(embed(cli_json)["image"]) == all_reused(24)


def test_a_changed_caption_gets_a_new_vector(embedded: Path, root: Path, cli: Run, cli_json: Run) -> None:
    before = vectors(embedded, "captions")
    file = root / "annotations/captions_val.json"
    told = json.loads(file.read_text())
    told["annotations"][0]["caption"] = "two wholly new words"
    file.write_text(json.dumps(told))
    cli("ingest", "coco", root)
    again = embed(cli_json)
    assert (again["image"]["done"], again["text"]["done"]) == (0, 1)
    assert (np.abs(vectors(embedded, "captions") - before).max(axis=1) > 1e-6).sum() == 1


def test_a_missing_photo_is_embedded_when_it_comes(root: Path, cli: Run, cli_json: Run) -> None:
    photo = sorted((root / "val").iterdir())[0]
    content = photo.read_bytes()
    photo.unlink()
    cli("ingest", "coco", root)
    first = embed(cli_json)["image"]
    assert (first["done"], first["missing"]) == (23, 1)
    photo.write_bytes(content)
    assert counts(embed(cli_json)["image"]) == {"planned": 1, "done": 1, "reused": 23, "failed": 0, "missing": 0}


# Killed


class Scale(NamedTuple):
    """So many drawn scenes, and so many items in a shard: two or four shards of images, two or three of captions."""

    images: int
    shard: dict[TowerName, int]


SHORT, LONG = Scale(400, {"image": 256, "text": 1024}), Scale(3600, {"image": 1024, "text": 8192})


class Many(NamedTuple):
    """A store of drawn scenes, ingested, and the arguments that embed it with the shards of a scale."""

    store: Path
    scale: Scale

    def embed(self, *words: object) -> list[str]:
        program = f"from clipstore.pipeline.embed import plan; plan.ITEMS_PER_SHARD = {self.scale.shard!r}; "
        return [sys.executable, "-c", program + "from clipstore.cli import main; main()", "embed", *map(str, words)]


@pytest.fixture(scope="module")
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Many:
    """A store with as many scenes as the parameter says, ingested. Copy it before changing it."""
    root, store = tmp_path_factory.mktemp("many"), tmp_path_factory.mktemp("ingested") / "store"
    draw_dataset(root, images=request.param.images, seed=9, split="val")
    run_command(store, "ingest", "coco", root)
    return Many(store, request.param)


@pytest.fixture(scope="module")
def undisturbed(many: Many, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Path(shutil.copytree(many.store, tmp_path_factory.mktemp("undisturbed") / "store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ITEMS_PER_SHARD", many.scale.shard)
        run_command(store, "embed", "--model", "demo")
    return store


def killed_at(store: Path, pattern: str, shards: int, command: list[str]) -> None:
    """Run a command and SIGKILL it as soon as so many files match."""
    deadline = time.monotonic() + 120
    with subprocess.Popen(command, env=environment(store), stderr=subprocess.DEVNULL) as process:
        while len(list(store.glob(pattern))) < shards:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.005)
                pytest.fail("it ended before it could be killed")
            assert time.monotonic() < deadline
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("many", [SHORT], indirect=True, ids=["short"])
def test_a_killed_run_goes_on_to_the_same_vectors(many: Many, undisturbed: Path, store: Path) -> None:
    assert_goes_on("captions", 1, many, undisturbed, store)


@pytest.mark.full
@pytest.mark.parametrize("many", [LONG], indirect=True, ids=["long"])
@pytest.mark.parametrize(
    ("kind", "shards"), [("vectors of images", 2), ("features", 2), ("captions", 1), ("captions", 2)]
)
def test_a_run_killed_anywhere_goes_on_to_the_same_vectors(
    kind: str, shards: int, many: Many, undisturbed: Path, store: Path
) -> None:
    assert_goes_on(kind, shards, many, undisturbed, store)


def assert_goes_on(kind: str, shards: int, many: Many, undisturbed: Path, store: Path) -> None:
    """Kill `embed` when so many shards of a kind are there; the next run leaves what an undisturbed one does."""
    shutil.copytree(many.store, store)
    fingerprint = ask(undisturbed, _FINGERPRINT[kind])[0]["fingerprint"]
    killed_at(store, f"shards/{fingerprint}/*.h5", shards, many.embed("--model", "demo"))
    registered = {row["file"] for row in ask(store, "SELECT file FROM shards")}
    before = shard_files(store)
    assert registered <= set(before)
    assert len(registered) < len(shard_files(undisturbed))
    command = many.embed("--model", "demo", "--json")
    answer = subprocess.run(command, env=environment(store), capture_output=True, text=True, check=True, timeout=300)
    image = next(row for row in json.loads(answer.stdout)["embedded"] if row["tower"] == "image")
    assert image["reused"] + image["done"] == ask(many.store, "SELECT count(*) AS n FROM images")[0]["n"]
    assert image["reused"] >= many.scale.shard["image"]
    after = shard_files(store)
    assert {name: after[name] for name in registered} == {name: before[name] for name in registered}
    for what in ("images", "captions"):
        np.testing.assert_allclose(vectors(store, what), vectors(undisturbed, what), atol=SAME)
    assert after.keys() == shard_files(undisturbed).keys()


_FINGERPRINT = {
    "vectors of images": "SELECT fingerprint FROM towers WHERE tower = 'image'",
    "features": "SELECT backbone AS fingerprint FROM towers WHERE tower = 'image'",
    "captions": "SELECT fingerprint FROM towers WHERE tower = 'text'",
}


def contents(store: Path) -> dict[str, bytes]:
    return {name: (store / name).read_bytes() for name in shard_files(store)}


def assert_same_shards(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """The same items in the same files, and the same rows but for rounding."""
    assert found.keys() == expected.keys()
    for name, shard in found.items():
        with h5py.File(io.BytesIO(shard)) as one, h5py.File(io.BytesIO(expected[name])) as other:
            assert one.keys() == other.keys()
            assert one["content"][:].tolist() == other["content"][:].tolist()
            np.testing.assert_allclose(one["values"][:], other["values"][:], rtol=1e-5, atol=SAME)


@pytest.fixture
def orphaned(prepared: Path, embedded: Path) -> Path:
    """A store whose shards are complete and whose catalog knows of none."""
    shutil.copy(prepared / "ingested" / "catalog.duckdb", embedded)
    return embedded


def test_a_complete_shard_that_was_not_registered_is_adopted(orphaned: Path, cli_json: Run) -> None:
    before = shard_files(orphaned)
    summary = embed(cli_json)
    assert counts(summary["image"]) == all_done(24)
    assert shard_files(orphaned) == before
    assert vectors(orphaned, "images").shape == (24, 64)
    assert counts(embed(cli_json)["image"]) == all_reused(24)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def overwrite(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["values"][3] = 1


@pytest.mark.parametrize("damage", [cut, overwrite])
@pytest.mark.parametrize("kind", ["vectors of images", "features", "captions"])
def test_a_damaged_shard_that_was_not_registered_is_written_again(
    kind: str, damage: Callable[[Path], None], orphaned: Path, cli_json: Run
) -> None:
    before = contents(orphaned)
    shard = next(path for path in before if shard_kind(orphaned / path) == kind)
    damage(orphaned / shard)
    assert contents(orphaned) != before
    embed(cli_json)
    assert_same_shards(contents(orphaned), before)


def test_images_whose_features_were_not_kept_are_embedded_again(orphaned: Path, cli_json: Run) -> None:
    """As a kill between the two shards of a plan leaves them."""
    before = contents(orphaned)
    next(orphaned / path for path in before if shard_kind(orphaned / path) == "features").unlink()
    assert counts(embed(cli_json)["image"]) == all_done(24)
    assert_same_shards(contents(orphaned), before)


def shard_kind(path: Path) -> str:
    if path.name.startswith("text"):
        return "captions"
    with h5py.File(path) as file:
        return "features" if file["values"].shape[1] == 128 else "vectors of images"


# Bad photos and captions


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **how)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file that says it is this large, and holds one byte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def odd_photos() -> dict[str, bytes]:
    random = np.random.default_rng(1)
    colours = Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8))
    grey = random.integers(0, 256, (90, 120), dtype=np.uint8)
    deep = Image.fromarray((grey.astype(np.uint16) << 8) + random.integers(0, 256, (90, 120), dtype=np.uint16))
    return {
        "good.jpg": saved(colours, "JPEG"),
        "grey.jpg": saved(Image.fromarray(grey), "JPEG"),
        "cmyk.jpg": saved(colours.convert("CMYK"), "JPEG"),
        "palette.png": saved(colours.quantize(64), "PNG", transparency=bytes(range(64))),
        "deep.png": saved(deep, "PNG"),
        "eight.png": saved(Image.fromarray(grey), "PNG"),
        "thin.png": saved(colours.crop((0, 0, 1, 90)), "PNG"),
    }


def bad_photos() -> dict[str, bytes]:
    whole = odd_photos()
    return {
        "truncated.jpg": whole["good.jpg"][:2000],
        "header.jpg": whole["good.jpg"][:20],
        "cut.png": whole["eight.png"][:3000],
        "empty.jpg": b"",
        "text.jpg": b"this is no photo",
        "bomb.png": png_of_size(30_000, 30_000),
        "large.png": png_of_size(10_000, 10_000),
        "long.png": saved(Image.new("RGB", (1, 60_000)), "PNG"),
        "lie.png": png_of_size(100, 100),
    }


REASONS = {
    "truncated.jpg": "damaged: .*truncated",
    "header.jpg": "not an image",
    "cut.png": "damaged: ",
    "empty.jpg": "the file is empty",
    "text.jpg": "not an image",
    "bomb.png": "decompression bomb",
    "large.png": "decompression bomb",
    "long.png": "too elongated",
    "lie.png": "damaged: ",
    "missing.jpg": "the image file is missing",
    "folder.jpg": "cannot be read: Is a directory",
    "inside.jpg/a.jpg": "the image file is missing|cannot be read: Not a directory",
}


@pytest.fixture(scope="module")
def prepared_odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of images that are odd, bad or missing, and the stores `ingested` and `embedded` of it."""
    place = tmp_path_factory.mktemp("prepared_odd")
    folder = write_odd(place / "odd")
    run_command(place / "ingested", "ingest", "csv", folder / "odd.csv")
    shutil.copytree(place / "ingested", place / "embedded")
    run_command(place / "embedded", "embed", "--model", "demo")
    return place


def write_odd(folder: Path) -> Path:
    folder.mkdir()
    for name, content in {**odd_photos(), **bad_photos()}.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(1, 1))  # written again, the file is the same
    (folder / "folder.jpg").mkdir()
    (folder / "inside.jpg").write_bytes(b"a file where a folder should be")
    write_csv(folder / "odd.csv", [(name, f"a picture of {name}") for name in [*odd_photos(), *REASONS]])
    return folder


@pytest.fixture
def odd(prepared_odd: Path, store: Path) -> Path:
    """This test's store with those images, as they were before another test changed them."""
    shutil.rmtree(prepared_odd / "odd")
    write_odd(prepared_odd / "odd")
    return Path(shutil.copytree(prepared_odd / "ingested", store))


@pytest.fixture
def embedded_odd(prepared_odd: Path, odd: Path) -> Path:
    """The same, embedded with the bundled model."""
    shutil.rmtree(odd)
    return Path(shutil.copytree(prepared_odd / "embedded", odd))


def write_csv(file: Path, rows: list[tuple[str, str]]) -> None:
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([("image_path", "caption"), *rows])


def failures(cli_json: Run) -> dict[str, str]:
    rows = cli_json("query", "item_failures", "-p", "limit=100")
    assert len({(row["tower"], row["item"]) for row in rows}) == len(rows)
    return {row["item"]: row["reason"] for row in rows}


def test_bad_photos_stop_nothing_and_are_recorded_with_their_reason(odd: Path, cli_json: Run) -> None:
    summary = embed(cli_json)
    gone = 3  # missing.jpg, folder.jpg, inside.jpg/a.jpg
    assert counts(summary["image"]) == {"planned": 16, "done": 7, "reused": 0, "failed": 9, "missing": gone}
    told = failures(cli_json)
    assert sorted(told) == sorted(REASONS)
    for name, reason in REASONS.items():
        assert re.search(reason, told[name]), (name, told[name])
    assert counts(embed(cli_json)["image"]) == {"planned": 0, "done": 0, "reused": 7, "failed": 9, "missing": gone}


def test_16_bits_are_scaled_to_8(embedded_odd: Path, cli_json: Run) -> None:
    names = [row["file_name"] for row in ask(embedded_odd, "SELECT file_name FROM images ORDER BY image_id")]
    good = [name for name in names if name in odd_photos()]
    values = dict(zip(good, vectors(embedded_odd, "images", split="odd/all"), strict=True))
    np.testing.assert_allclose(values["deep.png"], values["eight.png"], atol=1e-6)
    assert np.abs(values["deep.png"] - values["grey.jpg"]).max() > 1e-4


def test_failures_are_left_out_of_an_evaluation_and_stamped_on_it(embedded_odd: Path, cli_json: Run) -> None:
    told = cli_json("eval", "--model", "demo", "--split", "odd/all")["evaluations"][0]["measured_on"]
    assert (told["images"], told["captions"]) == (7, 7)
    assert (told["left_out_images"], told["left_out_captions"]) == (12, 12)
    assert (told["pending_images"], told["pending_captions"], told["partial"]) == (0, 0, False)


def test_too_many_failures_are_an_error_once_all_is_done(odd: Path, cli: Run, cli_json: Run) -> None:
    failed = cli("embed", "--model", "demo", "--max-failed", "0", code=1)
    assert "12 of 19 items of the image tower of demo failed or are missing" in failed.stderr
    assert vectors(odd, "images", split="odd/all").shape[0] == 7
    cli("embed", "--model", "demo", "--max-failed", "0.5", code=1)
    cli("embed", "--model", "demo", "--max-failed", "0.9")


def test_failures_are_tried_again_when_asked(embedded_odd: Path, cli_json: Run) -> None:
    before = failures(cli_json)
    for _ in range(2):
        again = embed(cli_json, "--retry-failed")["image"]
        assert counts(again) == {"planned": 9, "done": 0, "reused": 7, "failed": 9, "missing": 3}
        assert failures(cli_json) == before


def test_a_photo_that_was_mended_is_embedded(embedded_odd: Path, cli_json: Run, prepared_odd: Path) -> None:
    mended = saved(Image.new("RGB", (50, 50), "red"), "JPEG")
    for name in ("truncated.jpg", "missing.jpg"):
        (prepared_odd / "odd" / name).write_bytes(mended)
    summary = embed(cli_json)["image"]
    assert counts(summary) == {"planned": 1, "done": 1, "reused": 7, "failed": 8, "missing": 2}
    assert {"truncated.jpg", "missing.jpg"}.isdisjoint(failures(cli_json))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_photo_that_may_not_be_read_is_recorded(ingested: Path, root: Path, cli_json: Run) -> None:
    sorted((root / "val").iterdir())[0].chmod(0)
    assert counts(embed(cli_json)["image"])["missing"] == 1
    assert "Permission denied" in next(iter(failures(cli_json).values()))


def test_a_data_set_without_a_single_good_photo(tmp_path: Path, cli: Run, cli_json: Run) -> None:
    (tmp_path / "text.jpg").write_text("no photo")
    write_csv(tmp_path / "none.csv", [("text.jpg", "a dog"), ("gone.jpg", "a cat")])
    cli("ingest", "csv", tmp_path / "none.csv")
    summary = embed(cli_json)
    assert counts(summary["image"]) == {"planned": 1, "done": 0, "reused": 0, "failed": 1, "missing": 1}
    assert counts(summary["text"]) == all_done(2)
    failed = cli("eval", "--model", "demo", "--split", "none/all", code=1)
    assert "none/all" in failed.stderr


@pytest.mark.parametrize("empty", ["", " ", "\t \n"], ids=repr)
def test_an_empty_caption_fails_with_a_reason(empty: str, root: Path, cli: Run, cli_json: Run) -> None:
    file = root / "annotations/captions_val.json"
    told = json.loads(file.read_text())
    told["annotations"][0]["caption"] = empty
    file.write_text(json.dumps(told))
    cli("ingest", "coco", root)
    summary = embed(cli_json)["text"]
    assert (summary["failed"], summary["done"]) == (1, summary["planned"] - 1)
    assert list(failures(cli_json).values()) == ["the caption is empty"]
    measured = cli_json("eval", "--model", "demo", "--split", SPLIT)["evaluations"][0]["measured_on"]
    assert (measured["captions"], measured["left_out_captions"]) == (119, 1)


def test_a_caption_beyond_what_the_model_reads_is_cut_and_counted(tmp_path: Path, cli: Run, cli_json: Run) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    write_csv(tmp_path / "long.csv", [("a.png", "a red square " * n) for n in (1, 60, 90)])
    cli("ingest", "csv", tmp_path / "long.csv")
    summary = embed(cli_json)["text"]
    assert (summary["done"], summary["cut"], summary["failed"]) == (3, 2, 0)


# What models share


@pytest.fixture
def headed(small_clip: Path, tmp_path: Path) -> Path:
    """The small model with another image head."""
    folder = Path(shutil.copytree(small_clip, tmp_path / "headed"))
    tensors = load_file(folder / "model.safetensors")
    head = np.random.default_rng(4).normal(size=tensors["visual_projection.weight"].shape)
    tensors["visual_projection.weight"] = head.astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def spoil(root: Path) -> None:
    """Make photos unreadable in a way that a look at size and time does not show."""
    for photo in (root / "val").iterdir():
        told = photo.stat()
        photo.write_bytes(bytes(told.st_size))
        os.utime(photo, ns=(told.st_atime_ns, told.st_mtime_ns))


def test_a_model_with_another_head_reads_no_photo(
    ingested: Path, root: Path, cli: Run, cli_json: Run, small_clip: Path, headed: Path
) -> None:
    cli("model", "add", "small", "--base", small_clip)
    cli("model", "add", "headed", "--base", headed)
    embed(cli_json, "--precision", "fp32", model="small")
    before = shard_files(ingested)
    spoil(root)
    summary = embed(cli_json, "--precision", "fp32", model="headed")
    assert counts(summary["image"]) == all_done(24)
    assert summary["text"]["planned"] == 0
    after = shard_files(ingested)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 1
    features = ask(ingested, "SELECT file FROM shards WHERE kind = 'features'")
    with h5py.File(ingested / features[0]["file"]) as file:
        expected = file["values"][:] @ load_file(headed / "model.safetensors")["visual_projection.weight"].T
    np.testing.assert_allclose(vectors(ingested, "images", model="headed"), normalize(expected, "float32"), atol=1e-6)


def test_a_model_with_a_tuned_text_tower_embeds_no_image(
    ingested: Path, root: Path, cli: Run, cli_json: Run, small_clip: Path, tmp_path: Path
) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=r".*text_model.*q_proj")
    cli("model", "add", "small", "--base", small_clip)
    cli("model", "add", "tuned", "--base", small_clip, "--adapter", tuned)
    embed(cli_json, model="small")
    spoil(root)
    summary = embed(cli_json, model="tuned")
    assert counts(summary["image"]) == all_reused(24)
    assert summary["text"]["done"] == summary["text"]["planned"] > 0
    assert np.array_equal(vectors(ingested, "images", model="tuned"), vectors(ingested, "images", model="small"))
    moved = vectors(ingested, "captions", model="tuned") - vectors(ingested, "captions", model="small")
    assert np.abs(moved).max(axis=1).min() > 1e-6


def test_a_model_that_cannot_be_had_is_one_line(ingested: Path, cli: Run, headed: Path) -> None:
    cli("model", "add", "headed", "--base", headed)
    os.truncate(headed / "model.safetensors", 1_000_000)
    failed = cli("embed", "--model", "headed", code=1)
    assert "model.safetensors is not a safetensors file, or is cut short" in failed.stderr
    (headed / "model.safetensors").unlink()
    assert "has no model.safetensors" in cli("embed", "--model", "headed", code=1).stderr


def test_changed_weights_are_embedded_anew(ingested: Path, cli: Run, cli_json: Run, headed: Path) -> None:
    cli("model", "add", "tuned", "--base", headed)
    embed(cli_json, model="tuned")
    before = vectors(ingested, "captions", model="tuned")
    tensors = load_file(headed / "model.safetensors")
    tensors["text_projection.weight"] = tensors["text_projection.weight"][::-1].copy()
    save_file(tensors, headed / "model.safetensors", metadata={"format": "pt"})
    again = embed(cli_json, model="tuned")
    assert (counts(again["image"]), again["text"]["reused"]) == (all_reused(24), 0)
    np.testing.assert_allclose(vectors(ingested, "captions", model="tuned"), before[:, ::-1], atol=1e-6)


def test_a_prompt_changes_texts_alone(
    embedded: Path, cli_json: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    job = '[model]\nbase = "bundled:demo"\nprompt = "a photo of {}"\n'
    (tmp_path / "jobs/prompted.toml").write_text(job)
    monkeypatch.chdir(tmp_path)
    summary = embed(cli_json, model="prompted")
    assert counts(summary["image"]) == all_reused(24)
    assert summary["text"]["reused"] == 0
    moved = vectors(embedded, "captions", model="prompted") - vectors(embedded, "captions")
    assert np.abs(moved).max(axis=1).min() > 1e-4


def test_a_precision_is_kept_until_another_is_asked_for(ingested: Path, cli_json: Run) -> None:
    embed(cli_json, "--precision", "fp32")
    assert embed(cli_json, "--precision", "bf16")["image"]["reused"] == 0
    assert counts(embed(cli_json)["image"]) == all_reused(24)
    assert {row["precision"] for row in ask(ingested, "SELECT precision FROM towers")} == {"bf16"}
    assert counts(embed(cli_json, "--precision", "fp32")["image"]) == all_reused(24)


# Real data


def embedded_and_measured(cli: Run, cli_json: Run, model: str, *splits: str) -> dict[str, dict[str, Any]]:
    words = [word for split in splits for word in ("--split", split)]
    cli("embed", "--model", model, *words)
    return {split: cli_json("eval", "--model", model, "--split", split)["evaluations"][0] for split in splits}


def assert_coco_mini(cli: Run, cli_json: Run, model: str) -> None:
    told = embedded_and_measured(cli, cli_json, model, "coco/train2017", "coco/val2017")
    for split, images, captions in (("coco/train2017", 80, 400), ("coco/val2017", 79, 395)):
        measured = told[split]["measured_on"]
        assert (measured["images"], measured["captions"]) == (images, captions)
        assert (measured["left_out_images"], measured["left_out_captions"]) == (0, 0)
        assert 0 < told[split]["metrics"]["rsum"] < 600


def test_coco_photos_with_the_bundled_model(test_data: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "coco", test_data / "coco-mini")
    assert_coco_mini(cli, cli_json, "demo")


@pytest.mark.full
def test_coco_photos_with_a_model_of_full_size(test_data: Path, cli: Run, cli_json: Run, full_clip: Path) -> None:
    cli("ingest", "coco", test_data / "coco-mini")
    cli("model", "add", "b32", "--base", full_clip)
    assert_coco_mini(cli, cli_json, "b32")


def assert_flickr8k(cli: Run, cli_json: Run, model: str) -> None:
    told = embedded_and_measured(cli, cli_json, model, "flickr8k/test")["flickr8k/test"]
    assert (told["measured_on"]["images"], told["measured_on"]["captions"]) == (1000, 5000)
    assert told["measured_on"]["left_out_images"] == 0


def test_flickr_photos_with_the_bundled_model(test_data: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    assert_flickr8k(cli, cli_json, "demo")


@pytest.mark.full
def test_photos_that_are_not_on_disk_are_left_out(test_data: Path, cli: Run, cli_json: Run) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    summary = embed(cli_json, "--split", "flickr8k/all")["image"]
    photos = {sha256(photo.read_bytes()).digest() for photo in (test_data / "flickr8k").glob("*/*.jpg")}
    assert (summary["done"], summary["missing"]) == (len(photos), 8092 - 2800)
    told = cli_json("eval", "--model", "demo", "--split", "flickr8k/all")["evaluations"][0]["measured_on"]
    assert (told["images"], told["captions"]) == (2800, 14_000)
    assert (told["left_out_images"], told["left_out_captions"]) == (8092 - 2800, 40_460 - 14_000)


@pytest.mark.full
def test_flickr_photos_with_a_model_of_full_size(test_data: Path, cli: Run, cli_json: Run, full_clip: Path) -> None:
    cli("ingest", "flickr", test_data / "flickr8k")
    cli("model", "add", "b32", "--base", full_clip)
    assert_flickr8k(cli, cli_json, "b32")


def test_a_dry_run_leaves_the_precision_as_it_was(cli: Run, cli_json: Run, ingested: Path) -> None:
    embed(cli_json, "--precision", "fp32")
    before = ask(ingested, "SELECT * FROM towers ORDER BY ALL")
    assert embed(cli_json, "--precision", "bf16", "--dry-run")["image"]["planned"] == 24
    assert ask(ingested, "SELECT * FROM towers ORDER BY ALL") == before
    cli("eval", "--model", "demo", "--split", SPLIT)


def test_a_shard_that_is_gone_is_made_again(cli: Run, cli_json: Run, embedded: Path) -> None:
    before = vectors(embedded, "images")
    shutil.rmtree(embedded / "shards")
    assert "embed again" in cli("eval", "--model", "demo", "--split", SPLIT, code=1).stderr
    summary = embed(cli_json)
    assert (summary["image"]["lost_shards"], summary["text"]["lost_shards"]) == (2, 1)
    assert counts(summary["image"]) == all_done(24)
    np.testing.assert_allclose(vectors(embedded, "images"), before, atol=SAME)
    cli("eval", "--model", "demo", "--split", SPLIT)


def test_the_stamp_names_the_types_that_were_ranked(cli: Run, cli_json: Run, ingested: Path) -> None:
    embed(cli_json, "--only", "images", "--store-dtype", "float16")
    embed(cli_json)
    told = cli_json("eval", "--model", "demo", "--split", SPLIT)["evaluations"][0]["measured_on"]
    assert told["dtype"] == "float16/float32"


def test_a_photo_that_is_gone_keeps_its_vector(cli: Run, cli_json: Run, root: Path, embedded: Path) -> None:
    shutil.rmtree(root / "val")
    assert embed(cli_json)["image"]["missing"] == 24
    told = cli_json("eval", "--model", "demo", "--split", SPLIT)["evaluations"][0]["measured_on"]
    assert (told["images"], told["left_out_images"]) == (24, 0)
