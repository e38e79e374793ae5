"""The targets: what is read, valid inputs to start from, and the function that reads an input."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from clip_folder import build_lora
from family_folders import SMALL
from helpers import run_command
from hypothesis import strategies as st
from PIL import Image

from clipstore.catalog import parameters_of
from clipstore.datasets import coco, csv_file, flickr, karpathy
from clipstore.demo.scenes import draw_dataset
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families import recognise
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.images import decode_pixels, read_preprocessing
from clipstore.encoders.loading import load_model
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import preprocessor_file
from clipstore.errors import ClipstoreError
from clipstore.files import read_regular
from clipstore.jobs import read_job
from clipstore.pipeline.query import run_query
from clipstore.records import Model
from clipstore.resources import packaged_folder
from clipstore.shards import read_rows, read_shard, scan_shard
from clipstore.statements import statement, statement_names
from clipstore.store.layout import Store
from fuzz.mutations import changed

FAILED = (ClipstoreError, OSError)  # the command line turns both into one line


class Target(NamedTuple):
    """What is fuzzed: a strategy of inputs, and the function that reads one in an empty folder of its own."""

    inputs: st.SearchStrategy[bytes]
    read: Callable[[bytes, Path], None]


def make_targets(root: Path) -> Mapping[str, Target]:
    """The targets by name; `root` is a folder for their valid inputs."""
    draw_dataset(root / "scenes", images=4, seed=1, split="val")
    return {name: make(root) for name, make in _TARGETS.items()}


def attempt(function: Callable[[], object]) -> None:
    """Call a function that may fail with an error that a user sees as one line."""
    with suppress(*FAILED):
        function()


def _coco(root: Path) -> Target:
    seeds = [file.read_bytes() for file in sorted((root / "scenes" / "annotations").glob("*.json"))]
    names = [file.name for file in sorted((root / "scenes" / "annotations").glob("*.json"))]

    def read(data: bytes, folder: Path) -> None:
        for name, seed in zip(names, seeds, strict=True):
            (folder / "annotations").mkdir(exist_ok=True)
            (folder / "annotations" / name).write_bytes(seed)
        for name in names:
            (folder / "annotations" / name).write_bytes(data)
            attempt(lambda: coco.read(folder, "val"))

    return Target(changed(seeds, is_json=True), read)


_KARPATHY = json.dumps(
    {
        "dataset": "coco",
        "images": [
            {
                "filename": f"{number}.jpg", "filepath": "val2014", "split": "test", "cocoid": number,
                "sentences": [{"raw": "a dog", "sentid": number * 2}, {"raw": "a cat", "sentid": number * 2 + 1}],
            }
            for number in range(3)
        ],
    }
).encode()  # fmt: skip
_CSV = b'image_path,caption,split,image_id,caption_id\na.jpg,a dog,train,1,1\nb.jpg,"a, ""b""",val,2,2\n'
_TOKENS = b"a.jpg#0\ta dog\na.jpg#1\ta cat\nb.jpg#0\ta tree\n"


def _other_annotations(_: Path) -> Target:
    def read(data: bytes, folder: Path) -> None:
        for name in ("dataset.json", "captions.csv", "captions.tsv", "results.csv", "Flickr8k.token.txt"):
            (folder / name).write_bytes(data)
        for name in ("Flickr_8k.trainImages.txt", "Flickr_8k.testImages.txt"):
            (folder / name).write_bytes(data)
        attempt(lambda: karpathy.read(folder / "dataset.json", folder))
        attempt(lambda: csv_file.read(folder / "captions.csv"))
        attempt(lambda: csv_file.read(folder / "captions.tsv"))
        attempt(lambda: flickr.read(folder))
        (folder / "Flickr8k.token.txt").unlink()
        attempt(lambda: flickr.read(folder))

    return Target(changed([_KARPATHY], is_json=True) | changed([_CSV, _TOKENS]), read)


def _jobs(_: Path) -> Target:
    seeds = [file.read_bytes() for file in sorted(packaged_folder("jobs").glob("*.toml"))]
    return Target(changed(seeds), _read_job)


def _read_job(data: bytes, folder: Path) -> None:
    (folder / "job.toml").write_bytes(data)
    attempt(lambda: read_job(folder / "job.toml"))


def _model_folders(root: Path) -> Target:
    base = Path(shutil.copytree(locate("bundled:demo"), root / "base"))
    adapter = build_lora(base, root / "adapter", targets=r".*text_model.*v_proj")
    files = [*sorted(base.glob("*.json")), adapter / "adapter_config.json"]
    inputs = st.sampled_from(files).flatmap(
        lambda file: changed([file.read_bytes()], is_json=True).map(lambda data: file.name.encode() + b"\n" + data)
    )

    def read(data: bytes, folder: Path) -> None:
        name, _, text = data.partition(b"\n")
        for source in (base, adapter):
            shutil.copytree(source, folder / source.name, copy_function=os.link)
            target = folder / source.name / name.decode()
            if target.exists():
                target.unlink()
                target.write_bytes(text)
        model = Model(name="fuzzed", family="clip", base=str(folder / base.name), adapter=str(folder / adapter.name))
        attempt(lambda: _encode(model))

    return Target(inputs, read)


def _family_folders(root: Path) -> Target:
    """Folders of all other families; SentencePiece's own format is not changed."""
    folders = {name: write(root / name) for name, write in SMALL.items()}
    files = [file for folder in folders.values() for file in sorted(folder.glob("*.json"))]
    inputs = st.sampled_from(files).flatmap(
        lambda file: changed([file.read_bytes()], is_json=True).map(
            lambda data: f"{file.parent.name}/{file.name}\n".encode() + data
        )
    )

    def read(data: bytes, folder: Path) -> None:
        name, _, text = data.partition(b"\n")
        family, _, file = name.decode().partition("/")
        copy = Path(shutil.copytree(folders[family], folder / family, copy_function=os.link))
        (copy / file).unlink()
        (copy / file).write_bytes(text)
        attempt(lambda: _encode(Model(name="fuzzed", family=recognise(copy, family).name, base=str(copy))))

    return Target(inputs, read)


def _encode(model: Model) -> None:
    """What `clipstore embed` does before the first item."""
    fingerprint_towers(model, "fp32")
    Encoder(load_model(model)).probe()


def _queries(root: Path) -> Target:
    run_command(root / "store", "ingest", "coco", root / "scenes")
    run_command(root / "store", "embed", "--model", "demo")
    run_command(root / "store", "eval", "--split", "coco/val")
    store = Store(root / "store")
    keys = {name.split("/")[1]: sorted(parameters_of(statement(name))) for name in statement_names("queries")}
    values = st.text() | st.sampled_from(
        ["demo", "coco/val", "standard", "5", "-1", "nan", "1e99", "image_to_text", "'"]
    )
    inputs = st.sampled_from(sorted(keys)).flatmap(
        lambda name: st.dictionaries(st.sampled_from([*keys[name], "none"]), values).map(
            lambda pairs: json.dumps([name, *(f"{key}={value}" for key, value in pairs.items())]).encode()
        )
    )

    def read(data: bytes, _: Path) -> None:
        name, *parameters = json.loads(data)
        attempt(lambda: run_query(store, name, parameters))

    return Target(inputs, read)


def _shards(root: Path) -> Target:
    shards = sorted((root / "store" / "shards").rglob("*.h5"))

    def read(data: bytes, folder: Path) -> None:
        file = folder / "image-0123456789abcdef.h5"
        file.write_bytes(data)
        attempt(lambda: read_shard(file))
        attempt(lambda: scan_shard(file, file=True, rows=True))
        attempt(lambda: read_rows(file, np.arange(2)))

    return Target(changed([file.read_bytes() for file in shards]), read)


def _images(root: Path) -> Target:
    picture = Image.open(min((root / "scenes").rglob("*.jpg"))).resize((40, 30))
    seeds = []
    Image.init()  # all formats: which of them are registered would depend on what ran before
    for form in sorted({"JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"} & set(Image.SAVE)):
        out = io.BytesIO()
        picture.save(out, form)
        seeds.append(out.getvalue())
    preprocessing = read_preprocessing(preprocessor_file(locate("bundled:demo")))
    return Target(changed(seeds), lambda data, _: attempt(lambda: decode_pixels(data, preprocessing)))


def _paths(_: Path) -> Target:
    return Target(changed([b"image_path,caption\na/b.jpg,a dog\n../c.jpg,\x00\n"]), _read_paths)


def _read_paths(data: bytes, folder: Path) -> None:
    (folder / "captions.csv").write_bytes(data)
    attempt(lambda: _read_files(folder / "captions.csv"))


def _read_files(file: Path) -> None:
    for path in csv_file.read(file).images["path"].to_pylist():
        attempt(lambda path=path: read_regular(Path(path)))


_TARGETS: Mapping[str, Callable[[Path], Target]] = {
    "annotations of COCO": _coco,
    "annotations of others": _other_annotations,
    "job files": _jobs,
    "model folders": _model_folders,
    "folders of other families": _family_folders,
    "query parameters": _queries,
    "shards": _shards,
    "image files": _images,
    "image paths": _paths,
}
NAMES = tuple(_TARGETS)
