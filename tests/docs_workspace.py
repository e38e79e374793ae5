"""The folder in which tests run the commands of the documentation: small data under the names that the pages use.

data/, models/               what the pages call /data and /models
runs/tuned/best              an adapter
dataset_coco.json, captions.csv, negatives.csv, labels.csv, templates.txt, question.sql, and .npy files for an import
jobs/                        the packaged jobs, on the bundled model and with one epoch
store/                       ingested, trained, embedded and evaluated
demo/store/                  the same
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from blip_folder import write_random_blip
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import clipstore
from clipstore.cli import main
from clipstore.datasets.extended import extended_positives
from clipstore.demo.scenes import draw_dataset
from clipstore.resources import packaged_folder
from clipstore.training_files import HEADS, write_checksums

JOBS = ("pretrained", "20k", "full", "demo-subset", "demo-full")
SETTINGS = {"base": '"bundled:demo"', "epochs": "1", "batch": "32", "chunk": "32", "warmup": "1"}
WITH_FILE = 130  # images of Karpathy's test split that have a file: at least 100 queries of eccv and of cxc


def build(root: Path) -> None:
    """Build the folder, which is the current one; takes some 15 seconds."""
    _write_coco(root / "data" / "coco")
    _write_scenes(root / "demo" / "scenes")
    _write_karpathy(root / "dataset_coco.json", root / "data" / "coco")
    _write_flickr(root / "data" / "flickr8k", root / "data" / "coco" / "val2017")
    _write_loose_images(root)
    _write_hard_negatives(root)
    (root / "jobs").mkdir()
    write_jobs(root / "jobs", _packaged_jobs())
    (root / "question.sql").write_text("SELECT count(*) FROM captions", encoding="utf-8")
    shutil.copytree(packaged_folder("jobs").parent / "clipstore/demo/model", root / "models" / "clip-vit-base-patch32")
    write_random_blip(root / "models" / "blip-itm-base-coco")
    for words in _commands(root):
        run(*words)
        if words[0] == "run":
            _write_adapters(root / "store" / "adapters")
    shutil.copytree(root / "store", root / "demo" / "store")
    shutil.copytree(root / "store" / "adapters" / "20k" / "best", root / "runs" / "tuned" / "best")
    run("model", "add", "tuned", "--base", "bundled:demo", "--adapter", "runs/tuned/best")
    run("embed", "--model", "tuned", "--split", "coco/val2017")
    run("eval", "--model", "tuned", "--split", "coco/val2017")
    run("zeroshot", "--model", "tuned", "--split", "coco/val2017")
    _write_vectors(root)


def _commands(root: Path) -> Iterator[list[str]]:
    """The commands that prepare the store; the folder is the current one."""
    yield ["ingest", "coco", f"{root}/data/coco"]
    yield ["ingest", "karpathy", "dataset_coco.json", f"{root}/data/coco"]
    yield ["ingest", "flickr", f"{root}/data/flickr8k"]
    yield ["ingest", "coco", "demo/scenes", "--name", "scenes"]
    yield ["ingest", "sugarcrepe", f"{root}/data/sugar-crepe", "--images", f"{root}/data/coco/val2017"]
    yield ["split", "20k", "--from", "coco/train2014", "--images", "20"]
    yield ["split", "full", "--from", "coco/train2014", "--validation", "0.1"]
    yield ["split", "subset", "--from", "scenes/train", "--images", "20"]
    yield ["split", "whole", "--from", "scenes/train", "--validation", "0.2"]
    yield ["run", "jobs/full.toml"]
    for models, split in (
        (["demo", "demo-subset", "demo-full"], "scenes/val"),
        (["pretrained", "full"], "coco/val2017"),
        (["pretrained", "20k", "full"], "full/val"),
        (["pretrained"], "coco/test"),
        (["pretrained", "full"], "sugarcrepe/all"),
    ):
        named = [word for model in models for word in ("--model", model)]
        yield ["embed", *named, "--split", split, "--precision", "fp32", "--allow-failures", "4859"]
        if split in {"scenes/val", "coco/val2017"}:
            yield ["eval", *named, "--split", split]


def run(*words: str) -> None:
    """Run a command that must succeed, on ./store."""
    result = CliRunner(env={"CLIPSTORE_STORE": "store", "HF_HUB_OFFLINE": "1"}).invoke(main, list(words))
    assert result.exit_code == 0, f"{words}: {result.output}"


def _write_coco(root: Path) -> None:
    draw_dataset(root, images=24, seed=5, split="val2017")
    draw_dataset(root, images=40, seed=5, split="train2014", first=101)


def _write_scenes(root: Path) -> None:
    draw_dataset(root, images=24, seed=5, split="val", first=201)
    draw_dataset(root, images=40, seed=5, split="train", first=301)


def _write_karpathy(file: Path, root: Path) -> None:
    """The 5,000 images of the test split under their COCO ids, WITH_FILE of them with a file, spread over all folds."""
    positives: dict[str, list[str]] = {}
    taken: set[str] = set()
    for image, caption in zip(
        *(extended_positives("cxc")[0][name].to_pylist() for name in ("image", "caption")), strict=True
    ):
        own = positives.setdefault(image, [])
        if len(own) < 5 and caption not in taken:
            own.append(caption)
            taken.add(caption)
    asked = set(extended_positives("eccv")[0]["image"].to_pylist())
    names = list(positives)
    shown = set([name for name in names if name in asked][:: len(asked) // WITH_FILE])
    pictures = sorted((root / "val2017").glob("*.jpg"))
    (root / "val2014").mkdir()
    for number, name in enumerate(sorted(shown)):
        shutil.copy(pictures[number % len(pictures)], root / "val2014" / f"{name}.jpg")
        with (root / "val2014" / f"{name}.jpg").open("ab") as image:  # bytes of its own, as every image has
            image.write(name.encode())
    images = [
        {
            "filename": f"{name}.jpg",
            "filepath": "val2014",
            "split": "test",
            "cocoid": int(name),
            "sentences": [
                {"raw": f"a shape of kind {number}", "sentid": int(one)} for number, one in enumerate(positives[name])
            ],
        }
        for name in names
    ]
    file.write_text(json.dumps({"dataset": "coco", "images": images}), encoding="utf-8")


def _write_flickr(root: Path, pictures: Path) -> None:
    """Flickr8k's layout with six images."""
    (root / "Flicker8k_Dataset").mkdir(parents=True)
    names = []
    for picture in sorted(pictures.glob("*.jpg"))[:6]:
        names.append(f"{picture.stem}_a.jpg")
        shutil.copy(picture, root / "Flicker8k_Dataset" / names[-1])
    lines = [f"{name}#{number}\ta shape, seen {number} times" for name in names for number in range(5)]
    (root / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for split, part in (("train", names[:2]), ("dev", names[2:4]), ("test", names[4:])):
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(part) + "\n", encoding="utf-8")


def _write_loose_images(root: Path) -> None:
    pictures = sorted((root / "data" / "coco" / "val2017").glob("*.jpg"))
    for name, picture in zip(("photos/one", "photos/other", "test_photos/a", "test_photos/b"), pictures, strict=False):
        target = root / "data" / f"{name}.jpg"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(picture, target)
    for number, picture in enumerate(pictures[:8]):
        target = root / "data" / "flowers" / ("rose", "tulip")[number % 2] / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, target)
    rows = [f"{picture},{('rose', 'tulip')[number % 2]}" for number, picture in enumerate(pictures[:6])]
    (root / "labels.csv").write_text("\n".join(["image_path,class", *rows]) + "\n", encoding="utf-8")
    (root / "templates.txt").write_text("a photo of a {}.\na picture of a {}.\n", encoding="utf-8")
    rows = [f"{picture},a shape that is number {number}" for number, picture in enumerate(pictures[:6])]
    (root / "captions.csv").write_text("\n".join(["image_path,caption", *rows]) + "\n", encoding="utf-8")


def _write_hard_negatives(root: Path) -> None:
    """Two files of SugarCrepe's form, and negatives.csv."""
    names = sorted(path.name for path in (root / "data" / "coco" / "val2017").glob("*.jpg"))[:6]
    rows = {
        str(number): {"filename": name, "caption": f"shape {number}", "negative_caption": f"no shape {number}"}
        for number, name in enumerate(names)
    }
    (root / "data" / "sugar-crepe").mkdir()
    for subset in ("add_att", "swap_obj"):
        (root / "data" / "sugar-crepe" / f"{subset}.json").write_text(json.dumps(rows), encoding="utf-8")
    (root / "negatives.csv").write_text("image_path,positive,negative\none.jpg,a shape,two shapes\n", encoding="utf-8")


def write_jobs(out: Path, texts: Iterable[str]) -> None:
    """Write job files that begin with the comment "# jobs/NAME.toml" with SETTINGS in place of theirs."""
    for text in texts:
        if name := re.match(r"# jobs/([\w-]+)\.toml", text):
            (out / f"{name[1]}.toml").write_text(_with_settings(text), encoding="utf-8")


def _with_settings(job: str) -> str:
    for key, value in SETTINGS.items():
        job = re.sub(rf"^{key} = .*$", f"{key} = {value}", job, flags=re.MULTILINE)
    return job


def _packaged_jobs() -> Iterator[str]:
    for name in JOBS:
        yield f"# jobs/{name}.toml\n" + (packaged_folder("jobs") / f"{name}.toml").read_text(encoding="utf-8")


def _write_adapters(adapters: Path) -> None:
    """The adapters of the other jobs: that of full with noise on its weights, in place of more training."""
    for seed, name in enumerate(("20k", "demo-subset", "demo-full")):
        shutil.copytree(adapters / "full" / "best", adapters / name / "best")
        if name != "demo-full":
            (adapters / name / "best" / HEADS).unlink()
        file = adapters / name / "best" / "adapter_model.safetensors"
        noise = np.random.default_rng(seed)
        weights = {key: value + noise.normal(scale=0.02, size=value.shape) for key, value in load_file(file).items()}
        save_file({key: value.astype(np.float32) for key, value in weights.items()}, file, {"format": "pt"})
        write_checksums(file.parent)


def _write_vectors(root: Path) -> None:
    store = clipstore.open(root / "store")
    for kind in ("image", "caption"):
        ids, vectors = store.vectors("pretrained", "coco/val2017", f"{kind}s")
        np.save(root / f"{kind}s.npy", vectors)
        np.save(root / f"{kind}_ids.npy", ids)
