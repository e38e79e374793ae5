"""Carrying out shard plans: reading ahead, batches, memory, precision, several models and several devices at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from clip_folder import build_clip, build_lora
from helpers import TESTS
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

import clipstore
from clipstore.demo.scenes import draw_dataset
from clipstore.device import best_precision
from clipstore.encoders.clip import ClipEncoder
from clipstore.encoders.fingerprint import describe
from clipstore.encoders.images import decode_pixels, read_preprocessing
from clipstore.encoders.loading import load_clip
from clipstore.encoders.model_files import locate, preprocessor_file
from clipstore.errors import ModelError
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.encode import encode
from clipstore.inference.prefetch import prefetch_images
from clipstore.inference.settings import EncodeSettings, Timings
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.records import ImageFile, Model, PlanGroup, ShardPlan
from clipstore.reporting.embedding import summary_notes
from clipstore.store.layout import Store

Run = Callable[..., Any]
SPLIT = "coco/val"


@pytest.fixture
def ingested(cli: Run, scenes: Path, store: Path) -> Path:
    cli("ingest", "coco", scenes)
    return store


def ask(store: Path, statement: str) -> list[dict[str, Any]]:
    return clipstore.open(store).sql(statement).to_pylist()


def vectors(store: Path, what: str, *, model: str = "demo", split: str = SPLIT) -> NDArray[Any]:
    return clipstore.open(store).vectors(model, split, what)[1]


class Counted:
    """A reader that counts how often each photo is read."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()
        self._lock = Lock()

    def __call__(self, path: Path) -> bytes:
        with self._lock:
            self.times[path.name] += 1
        return path.read_bytes()


# Reading ahead

HOW = read_preprocessing(preprocessor_file(locate("bundled:demo")))


@pytest.fixture(scope="module")
def photos(scenes: Path) -> list[ImageFile]:
    return [
        ImageFile(sha256(path.read_bytes()).hexdigest(), str(path), path.stat().st_size)
        for path in sorted((scenes / "val").iterdir())
    ]


def test_photos_come_in_order_as_each_model_wants_them(photos: list[ImageFile]) -> None:
    clock = Timings()
    made = list(prefetch_images(photos, [HOW, HOW], clock))
    assert [content for content, _ in made] == [photo.content for photo in photos]
    for photo, (_, seen) in zip(photos, made, strict=True):
        for one in seen:
            assert np.array_equal(one, decode_pixels(Path(photo.path).read_bytes(), HOW))
    assert clock.read > 0
    assert clock.decode > 0


def test_what_is_read_ahead_is_bounded_in_bytes(photos: list[ImageFile]) -> None:
    """Photos that say they have 64 MB: no more than four of them are read before they are taken."""
    read = Counted()
    large = [ImageFile(photo.content, photo.path, 64 * 2**20) for photo in photos]
    ahead = prefetch_images(large, [HOW], Timings(), read=read)
    for taken, _ in enumerate(ahead, 1):
        assert read.times.total() - taken < 4
    assert read.times.total() == len(photos)


def test_a_photo_that_changes_meanwhile_is_told(photos: list[ImageFile], tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    ((_, (told,)),) = prefetch_images([ImageFile(photos[0].content, str(tmp_path / "other.png"), 0)], [HOW], Timings())
    assert told == "the image file changed while it was being embedded: embed again"


def test_leaving_early_ends_the_threads(photos: list[ImageFile]) -> None:
    read = Counted()
    ahead = prefetch_images(photos * 200, [HOW], Timings(), read=read)
    next(ahead)
    ahead.close()
    assert read.times.total() < 200 * len(photos)


# Memory


def test_work_that_is_done_is_let_go(tmp_path: Path) -> None:
    model = Model(name="demo", family="clip", base="bundled:demo")
    tower, encoder = describe(model, "fp32")[1], ClipEncoder(load_clip(model))
    how = EncodeSettings(folder=tmp_path, model=model, encoder=encoder, batch_tokens=512, on_progress=lambda _: None)
    made: list[ref[PlanGroup]] = []
    most = 0

    def coming() -> Iterator[PlanGroup]:
        nonlocal most
        for number in range(20):
            plan = ShardPlan(tower=tower, source="texts", contents=[str(number)], sources=["a red square"], rows=[])
            work = PlanGroup(plans=(plan,))
            made.append(ref(work))
            most = max(most, sum(one() is not None for one in made))
            yield work

    assert len(list(encode(coming(), {tower.fingerprint: how}))) == 20
    assert most < 10


def doubled(most: int) -> Callable[[list[int]], tuple[NDArray[np.float32], NDArray[np.float32] | None]]:
    """Something that doubles numbers, on a device that has no memory for more than `most` at once."""

    def compute(items: list[int]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        if len(items) > most:
            message = "CUDA out of memory."
            raise torch.OutOfMemoryError(message)
        values = np.array(items, dtype=np.float32)[:, None]
        return 2 * values, values

    return compute


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40), st.integers(1, 40))
def test_batches_are_halved_until_they_fit(items: list[int], most: int) -> None:
    pieces = BatchSplitter()
    vectors, features = pieces.run(doubled(most), items)
    assert vectors[:, 0].tolist() == [2 * item for item in items]
    assert features is not None
    assert features[:, 0].tolist() == items
    assert pieces.count == 1 if len(items) <= most else -(-len(items) // pieces.count) <= most


def test_not_even_room_for_one_is_an_error() -> None:
    with pytest.raises(ModelError, match="no memory on the device for a single item"):
        BatchSplitter().run(doubled(0), [1, 2, 3])


def test_another_error_is_not_taken_for_want_of_memory() -> None:
    def fails(items: list[int]) -> tuple[NDArray[np.float32], None]:
        message = "mat1 and mat2 shapes cannot be multiplied"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="shapes"):
        BatchSplitter().run(fails, [1])


@pytest.mark.full
def test_memory_is_flat_in_the_number_of_items(tmp_path: Path, cli: Run, timed: Run) -> None:
    """1,000 and 100,000 small photos, each with a caption of its own."""
    rng = np.random.default_rng(0)
    peaks = []
    for items in (1_000, 100_000):
        folder = tmp_path / str(items)
        folder.mkdir()
        lines = ["image_path,caption"]
        for number in range(items):
            Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
            lines.append(f"{number}.jpg,picture number {number}")
        (folder / "items.csv").write_text("\n".join(lines))
        where = ("--store", folder / "store")
        cli("ingest", "csv", folder / "items.csv", *where)
        peaks.append(timed("embed", "--model", "demo", *where).peak_bytes)
        told = json.loads(timed("embed", "--model", "demo", "--json", *where).stdout)["embedded"]
        assert [(row["reused"], row["planned"]) for row in told] == [(items, 0), (items, 0)]
        shutil.rmtree(folder)
    assert peaks[1] - peaks[0] < 200e6, peaks


# Precision


def test_auto_is_the_best_of_the_processor_and_is_held_against_fp32(
    ingested: Path, cli: Run, cli_json: Run, scenes: Path, tmp_path: Path
) -> None:
    best = best_precision("cpu")
    (image, text) = cli_json("embed", "--model", "demo")["embedded"]
    assert {row["precision"] for row in ask(ingested, "SELECT precision FROM towers")} == {best}
    checks = {row["items"]: row["least_cosine"] for row in ask(ingested, "SELECT * FROM precision_checks")}
    if best == "fp32":
        assert (checks, image["least_cosine"], text["least_cosine"]) == ({}, None, None)
        return
    assert sorted(checks.values()) == sorted([image["least_cosine"], text["least_cosine"]])
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--store", exact)
    for what, told in (("images", image), ("captions", text)):
        ours, theirs = (vectors(place, what).astype(np.float64) for place in (ingested, exact))
        cosines = (ours * theirs).sum(axis=1)
        assert cosines.min() - 1e-6 <= told["least_cosine"] < 1
        assert cosines.min() > 0.99
    shown = cli_json("model", "show", "demo")["towers"]
    assert sorted(row["least_cosine_to_fp32"] for row in shown) == sorted(checks.values())


def test_a_precision_that_costs_much_is_told() -> None:
    clock = {"read": 0.0, "decode": 0.0, "forward": 1.0, "wait": 0.0, "write": 0.0}
    row = {
        "model": "m", "tower": "image", "lost_shards": 0, "least_cosine": 0.9981, "pieces": 4, "failed": 0,
        "special_tokens": 0, "missing": 0, "seconds": 1.0, "workers": 1, "clock": clock,
    }  # fmt: skip
    notes = "\n".join(summary_notes([row]))
    assert "0.9981" in notes
    assert "--precision fp32" in notes
    assert "cut in 4: lower --memory" in notes
    assert summary_notes([row | {"least_cosine": 0.9995, "pieces": 1}]) == []


def test_what_holds_a_run_up_is_named() -> None:
    clock = {"read": 1.0, "decode": 19.0, "forward": 4.0, "wait": 16.0, "write": 0.5}
    row = {
        "model": "m", "tower": "image", "lost_shards": 0, "least_cosine": None, "pieces": 1, "failed": 0,
        "special_tokens": 0, "missing": 0, "seconds": 20.0, "workers": 1,
        "clock": clock | {"decode": 19.0 * (os.cpu_count() or 1)},
    }  # fmt: skip
    (note,) = summary_notes([row])
    assert "the model waited 80% of the time, most of all for photos to be decoded" in note
    busy = row | {"clock": clock | {"forward": 19.0, "wait": 1.0}}
    assert "the model was busy 95% of the time" in summary_notes([busy])[0]
    disk = row | {"clock": clock | {"read": 19.0 * 32, "decode": 1.0}}
    assert "for photos to be read: bring them to a nearer" in summary_notes([disk])[0]


# Several models


@pytest.fixture
def tuned(small_clip: Path, tmp_path: Path) -> Path:
    """A text LoRA of the small model."""
    return build_lora(small_clip, tmp_path / "lora", targets=r".*text_model.*q_proj")


@pytest.fixture
def headed(small_clip: Path, tmp_path: Path) -> Path:
    """A text LoRA of the small model, with heads of its own beside it."""
    place = build_lora(small_clip, tmp_path / "headed", targets=r".*text_model.*v_proj")
    tensors = load_file(small_clip / "model.safetensors")
    names = ("visual_projection.weight", "text_projection.weight")
    save_file({name: tensors[name][::-1].copy() for name in names}, place / "heads.safetensors")
    return place


def test_models_of_one_vision_tower_decode_each_photo_once(
    ingested: Path, cli: Run, small_clip: Path, tuned: Path, headed: Path
) -> None:
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "tuned", "--base", small_clip, "--adapter", tuned)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", headed)
    read = Counted()
    told = embed(Store(ingested), ["plain", "tuned", "headed"], EmbedOptions(precision="fp32", read=read))
    assert set(read.times.values()) == {2}  # once to know its bytes, once to decode
    rows = {(one.model, one.tower): (one.done, one.reused) for one in told}
    assert rows["plain", "image"] == rows["headed", "image"] == (24, 0)
    assert rows["tuned", "image"] == (0, 24)
    assert np.array_equal(vectors(ingested, "images", model="plain"), vectors(ingested, "images", model="tuned"))
    swapped = vectors(ingested, "images", model="plain")[:, ::-1]
    np.testing.assert_allclose(vectors(ingested, "images", model="headed"), swapped, atol=1e-6)


def test_models_of_two_vision_towers_decode_each_photo_once(
    ingested: Path, cli: Run, scenes: Path, small_clip: Path, tmp_path: Path
) -> None:
    """Together each gets what it gets alone."""
    other = build_clip(tmp_path / "other", small=True, seed=1)
    alone = tmp_path / "alone"
    cli("ingest", "coco", scenes, "--store", alone)
    for name, base in (("one", small_clip), ("two", other)):
        for place in (ingested, alone):
            cli("model", "add", name, "--base", base, "--store", place)
        cli("embed", "--model", name, "--precision", "fp32", "--store", alone)
    read = Counted()
    embed(Store(ingested), ["one", "two", "demo"], EmbedOptions(precision="fp32", read=read))
    assert set(read.times.values()) == {2}
    for name in ("one", "two"):
        for what in ("images", "captions"):
            np.testing.assert_allclose(vectors(ingested, what, model=name), vectors(alone, what, model=name), atol=1e-6)


def test_models_that_do_not_fit_together_go_one_after_another(
    ingested: Path, cli: Run, scenes: Path, small_clip: Path, tmp_path: Path
) -> None:
    other = build_clip(tmp_path / "other", small=True, seed=1)
    for name, base in (("one", small_clip), ("two", other)):
        cli("model", "add", name, "--base", base)
    read = Counted()
    told = embed(Store(ingested), ["one", "two"], EmbedOptions(precision="fp32", read=read, memory=2**20))
    assert set(read.times.values()) == {3}
    assert [one.done for one in told if one.tower == "image"] == [24, 24]


def test_features_that_are_gone_are_made_again_for_each_model(
    cli: Run, cli_json: Run, scenes: Path, small_clip: Path, headed: Path, store: Path, tmp_path: Path
) -> None:
    """Also where the first model of the backbone has its vectors: training needs the features."""
    root = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    cli("ingest", "coco", root)
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", headed)
    cli("embed", "--model", "plain", "--precision", "fp32")
    for row in ask(store, "SELECT file FROM shards WHERE kind = 'features'"):
        (store / row["file"]).unlink()
    draw_dataset(root, images=10, seed=5, split="more", first=25)
    cli("ingest", "coco", root)
    told = cli_json("embed", "--model", "plain", "--model", "headed", "--precision", "fp32")["embedded"]
    assert [(row["model"], row["done"]) for row in told if row["tower"] == "image"] == [("plain", 34), ("headed", 34)]


# Several devices


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set of two shards of photos."""
    root = tmp_path_factory.mktemp("many")
    draw_dataset(root, images=1100, seed=5, split="val")
    return root


def every_shard(store: Path) -> dict[str, bytes]:
    """The bytes of all shards."""
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted((store / "shards").rglob("*.h5"))}


def test_two_processes_make_the_shards_that_one_makes(many: Path, cli: Run, cli_json: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    told = {}
    for place, devices in ((one, ["cpu"]), (two, ["cpu", "cpu"])):
        cli("ingest", "coco", many, "--store", place)
        words = [word for device in devices for word in ("--device", device)]
        told[place] = cli_json("embed", "--model", "demo", "--only", "images", *words, "--store", place)["embedded"][0]
    assert (told[one]["done"], told[two]["done"]) == (1100, 1100)
    assert told[two]["clock"]["forward"] > 0
    assert len(every_shard(one)) == 4
    assert every_shard(one).keys() == every_shard(two).keys()
    np.testing.assert_allclose(vectors(one, "images"), vectors(two, "images"), atol=1e-5)


_WITH_READER = "import sys; from broken_readers import embed_with; embed_with(sys.argv[1], sys.argv[2])"


@pytest.mark.parametrize(
    ("reader", "told"),
    [("dies", "the process on cpu died (exit code -9): run the same command again"), ("fails", "a mistake about")],
)
def test_a_process_that_ends_ends_the_run(reader: str, told: str, many: Path, cli: Run, store: Path) -> None:
    """In a process of its own, which must come to its end too, with work that nobody took."""
    cli("ingest", "coco", many)
    embed(Store(store), ["demo"], EmbedOptions(dry_run=True, only="images"))  # looks at the photos
    words = [sys.executable, "-c", _WITH_READER, reader, str(store)]
    ended = subprocess.run(words, cwd=TESTS, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1
    assert told in ended.stderr


@pytest.mark.full
def test_two_devices_for_a_model_that_has_features_and_captions_to_do(
    many: Path, cli: Run, cli_json: Run, small_clip: Path, headed: Path, store: Path
) -> None:
    cli("ingest", "coco", many)
    cli("model", "add", "plain", "--base", small_clip)
    cli("model", "add", "headed", "--base", small_clip, "--adapter", headed)
    cli("embed", "--model", "plain", "--only", "images")
    told = cli_json("embed", "--model", "headed", "--device", "cpu", "--device", "cpu")["embedded"]
    assert [row["done"] == row["planned"] > 0 for row in told] == [True, True]


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_gives_the_vectors_of_the_processor(
    compiled: bool, ingested: Path, cli: Run, scenes: Path, tmp_path: Path
) -> None:
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--device", "cpu", "--store", exact)
    words = ["--compile"] if compiled else []
    cli("embed", "--model", "demo", "--device", "cuda", *words)
    assert {row["precision"] for row in ask(ingested, "SELECT precision FROM towers")} == {"fp16"}
    for what in ("images", "captions"):
        ours, theirs = (vectors(place, what).astype(np.float64) for place in (ingested, exact))
        assert (ours * theirs).sum(axis=1).min() > 0.999


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
def test_two_gpus_share_the_work(many: Path, cli: Run, cli_json: Run, store: Path) -> None:
    cli("ingest", "coco", many)
    told = cli_json("embed", "--model", "demo", "--device", "cuda:0", "--device", "cuda:1")["embedded"]
    assert told[0]["done"] == 1100


# bench embed


def test_bench_embed_tells_what_it_measured(cli: Run, cli_json: Run, ingested: Path) -> None:
    told = cli_json("bench", "embed", "--images", 8, "--captions", 40, "--repeat", 1, "--read-delay", 0.001)
    assert (told["images"], told["captions"], told["photos"]) == (8, 40, "drawn")
    assert told["precision"] == best_precision("cpu")
    allowed = 1 / (1 / told["decode_alone"] + 1 / told["image_forward_alone"])
    assert told["image_limit"] == pytest.approx(allowed)
    assert told["image_share"] == pytest.approx(told["images_per_second"] / allowed)
    assert told["text_share"] == pytest.approx(told["captions_per_second"] / told["text_forward_alone"])
    assert told["delayed_share"] > 0
    shown = cli("bench", "embed", "--split", SPLIT, "--images", 4, "--captions", 8, "--repeat", 1).stdout
    assert re.search(rf"photos: {SPLIT}; captions of \d+\.\d tokens", shown)
    assert "unknown split" in cli("bench", "embed", "--split", "no/such", code=1).stderr


@pytest.fixture
def coco_mini(test_data: Path, cli: Run) -> tuple[str, ...]:
    cli("ingest", "coco", test_data / "coco-mini")
    return ("--split", "coco/train2017", "--split", "coco/val2017")


@pytest.mark.full
def test_images_come_as_fast_as_decoding_and_the_model_allow(coco_mini: tuple[str, ...], timed: Run) -> None:
    words = ("bench", "embed", *coco_mini, "--captions", 10, "--read-delay", 0.01, "--json")
    told = json.loads(timed(*words).stdout)
    assert told["image_share"] > 0.95
    assert told["delayed_share"] > 0.9


@pytest.mark.full
def test_captions_come_as_fast_as_the_model_allows(test_data: Path, cli: Run, timed: Run) -> None:
    cli("ingest", "coco", test_data / "coco-captions")
    words = ("bench", "embed", "--split", "coco/val2017", "--images", 4, "--captions", 25_014, "--repeat", 1, "--json")
    told = json.loads(timed(*words).stdout)
    assert told["captions"] > 24_000  # distinct ones
    assert told["text_share"] > 0.9


@pytest.mark.full
def test_nothing_to_do_takes_no_time(test_data: Path, cli: Run, timed: Run) -> None:
    cli("ingest", "coco", test_data / "coco-captions")
    cli("embed", "--model", "demo")
    again = timed("embed", "--model", "demo", "--json")
    assert [row["planned"] for row in json.loads(again.stdout)["embedded"]] == [0, 0]
    assert again.seconds < 3
