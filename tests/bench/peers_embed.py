"""Embedding beside its peers: the same photos, captions and weights, in one run, and whether the vectors agree.

    pip install --constraint constraints.txt '.[bench]'
    python tests/bench/peers_embed.py /data/coco --split val2017 --images 200
    python tests/bench/peers_embed.py /data/coco --split val2017 --images 80 --three-models

The weights are a ViT-B/32's, random. Peers run in fp32, their default. The study's way is that of the notebooks this
grew from: batch 1, the image encoded once more for each of its captions, the pair padded to 77 tokens, once for each
model. Everything is read and decoded from disk each time. `--three-models` compares it, from the first photo to the
last vector, with `clipstore ingest` and `clipstore embed` as processes, their start, fingerprints and shards included;
the study's way is given its libraries and models ready-loaded.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.utils import logging

import clipstore
from clipstore.encoders.untrained import clip_vocabulary, write_untrained
from clipstore.pipeline.embed import EmbedOptions, embed
from clipstore.pipeline.ingest import ingest_coco
from clipstore.pipeline.models import add_model
from clipstore.pipeline.store import Store
from clipstore.shards import normalised

BATCH, LONGEST = 32, 77
Floats = NDArray[np.float32]


class Task(NamedTuple):
    """Photos, and captions with the number of their photo."""

    photos: list[Path]
    captions: list[str]
    of: list[int]


class Peer(NamedTuple):
    """Something that embeds photos, and captions."""

    name: str
    images: Callable[[list[Path]], Floats]
    texts: Callable[[list[str]], Floats]


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


class Transformers:
    """CLIPModel and its processor's parts, as its documentation uses them."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    @torch.inference_mode()
    def see(self, photos: list[Path]) -> torch.Tensor:
        pixels = self.processor(images=[opened(photo) for photo in photos], return_tensors="pt")
        return self.model.get_image_features(**pixels).pooler_output

    @torch.inference_mode()
    def read(self, texts: list[str], padding: str | bool) -> torch.Tensor:
        told = self.tokenizer(texts, padding=padding, max_length=LONGEST, truncation=True, return_tensors="pt")
        return self.model.get_text_features(**told).pooler_output

    def peer(self, name: str, batch: int, padding: str | bool) -> Peer:
        return Peer(
            name,
            lambda photos: torch.cat([self.see(part) for part in parts(photos, batch)]).numpy(),
            lambda texts: torch.cat([self.read(part, padding) for part in parts(texts, batch)]).numpy(),
        )


def parts(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def sentence_transformers(folder: Path) -> Peer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as modules

    model = SentenceTransformer(modules=[modules.CLIPModel(str(folder))], device="cpu")
    return Peer(
        f"sentence-transformers' encode, batches of {BATCH}",
        lambda photos: model.encode([opened(photo) for photo in photos], batch_size=BATCH),
        lambda texts: model.encode(texts, batch_size=BATCH),
    )


def ours(task: Task, store: Store, name: str) -> tuple[dict[str, float], Floats, Floats]:
    """Items a second of both towers, and the vectors of the photos and captions asked for."""
    image, text = embed(store, [name], EmbedOptions(devices=("cpu",)))
    rates = {"images": image.done / image.seconds, "captions": text.done / text.seconds}
    opened_store = clipstore.open(store.root)
    split = opened_store.sql("SELECT name FROM splits").to_pylist()[0]["name"]
    vectors = [opened_store.vectors(name, split, what)[1] for what in ("images", "captions")]
    return rates, *vectors


def link(root: Path, split: str, folder: Path, images: int, captions: int) -> Task:
    """The first photos of a COCO split that are there, with their captions, as a COCO folder of its own."""
    told = json.loads((root / "annotations" / f"captions_{split}.json").read_text())
    by_image: dict[int, list[dict]] = {}
    for record in told["annotations"]:
        by_image.setdefault(record["image_id"], []).append(record)
    there = [one for one in told["images"] if (root / split / one["file_name"]).is_file()][:images]
    (folder / "annotations").mkdir(parents=True)
    (folder / split).mkdir()
    for one in there:
        (folder / split / one["file_name"]).symlink_to((root / split / one["file_name"]).absolute())
    records = [record for one in there for record in by_image.get(one["id"], [])][:captions]
    (folder / "annotations" / f"captions_{split}.json").write_text(
        json.dumps({"images": there, "annotations": records})
    )
    number = {one["id"]: place for place, one in enumerate(there)}
    paths = [folder / split / one["file_name"] for one in there]
    return Task(paths, [record["caption"] for record in records], [number[record["image_id"]] for record in records])


def rate(work: Callable[[list], Floats], items: list) -> tuple[float, Floats]:
    began = time.perf_counter()
    made = work(items)
    return len(items) / (time.perf_counter() - began), made


def least_cosine(one: Floats, other: Floats) -> float:
    return float((normalised(one, "float64") * normalised(other, "float64")).sum(axis=1).min())


def beside_peers(task: Task, folder: Path, model: Path, split: str, repeat: int) -> list[dict]:
    """Rates of all, in turn; medians. Distinct captions alone go to everybody: repeats are ours to skip."""
    distinct = list(dict.fromkeys(task.captions))
    plain = Transformers(model)
    peers = [
        plain.peer("transformers, one by one, padded to 77", 1, "max_length"),
        plain.peer(f"transformers, batches of {BATCH}, padded to 77", BATCH, "max_length"),
        plain.peer(f"transformers, batches of {BATCH}, padded to the longest", BATCH, True),
        sentence_transformers(model),
    ]
    rows: dict[str, list[tuple[float, float]]] = {}
    agree: dict[str, float] = {}
    for turn in range(repeat):
        store = Store(folder / f"store{turn}")
        ingest_coco(store, folder / "coco", splits=(split,))
        add_model(store, "b32", base=str(model))
        rates, images, texts = ours(task, store, "b32")
        rows.setdefault("clipstore", []).append((rates["images"], rates["captions"]))
        first = [task.captions.index(caption) for caption in distinct]
        for peer in peers:
            images_rate, seen = rate(peer.images, task.photos)
            texts_rate, read = rate(peer.texts, distinct)
            rows.setdefault(peer.name, []).append((images_rate, texts_rate))
            agree[peer.name] = min(least_cosine(images, seen), least_cosine(texts[first], read))
    middle = {name: tuple(statistics.median(side) for side in zip(*told, strict=True)) for name, told in rows.items()}
    return [
        {
            "what": name,
            "images_per_second": images,
            "captions_per_second": texts,
            "images_ratio": middle["clipstore"][0] / images,
            "captions_ratio": middle["clipstore"][1] / texts,
            "least_cosine_to_ours": agree.get(name),
        }
        for name, (images, texts) in middle.items()
    ]


def tuned(model: Path, place: Path, *, heads: bool) -> Path:
    """A text LoRA, and trained heads beside it where asked."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made = get_peft_model(CLIPModel.from_pretrained(model), LoraConfig(r=8, target_modules=r".*text.*[qv]_proj"))
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    made.save_pretrained(place)
    if heads:
        clip = CLIPModel.from_pretrained(model)
        own = {f"{side}_projection.weight": getattr(clip, f"{side}_projection").weight for side in ("text", "visual")}
        save_file(
            {name: (weight * 1.01).detach().contiguous() for name, weight in own.items()}, place / "heads.safetensors"
        )
    return place


def three_models(task: Task, folder: Path, model: Path, split: str) -> list[dict]:
    """A pretrained model, one with a text LoRA, one with heads too: all pairs the study's way, and our way, cold."""
    adapters = [tuned(model, folder / name, heads=heads) for name, heads in (("lora", False), ("headed", True))]
    environment = os.environ | {"CLIPSTORE_STORE": str(folder / "cold"), "HF_HUB_OFFLINE": "1"}

    def run(*words: object) -> None:
        command = [sys.executable, "-c", "from clipstore.cli import main; main()", *map(str, words)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    began = time.perf_counter()
    run("ingest", "coco", folder / "coco")
    run("model", "add", "plain", "--base", model)
    for adapter in adapters:
        run("model", "add", adapter.name, "--base", model, "--adapter", adapter)
    run("embed", "--model", "plain", "--model", "lora", "--model", "headed")
    our_seconds = time.perf_counter() - began
    began = time.perf_counter()
    run("embed", "--model", "plain", "--model", "lora", "--model", "headed")
    again = time.perf_counter() - began
    study = Transformers(model)  # a merged adapter costs what the base does: the same weights stand for all three
    began = time.perf_counter()
    for _ in range(3):
        for caption, of in zip(task.captions, task.of, strict=True):
            study.see([task.photos[of]])
            study.read([caption], "max_length")
    study_seconds = time.perf_counter() - began
    return [
        {"what": "the study's way", "seconds": study_seconds, "ratio": 1.0},
        {"what": "clipstore, cold", "seconds": our_seconds, "ratio": study_seconds / our_seconds},
        {"what": "clipstore embed again", "seconds": again, "ratio": study_seconds / again},
    ]


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", default="val2017", show_default=True)
@click.option("--images", default=200, show_default=True, type=click.IntRange(1))
@click.option("--captions", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--three-models", "three", is_flag=True, help="Compare the study's way instead, over all pairs.")
@click.option("--json", "as_json", is_flag=True)
def main(*, root: Path, split: str, images: int, captions: int, repeat: int, three: bool, as_json: bool) -> None:
    """Embed the photos of ROOT, a COCO folder."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="clipstore-peers-") as place:
        folder = Path(place)
        task = link(root, split, folder / "coco", images, captions)
        model = write_untrained(folder / "model", vocabulary=clip_vocabulary())
        rows = three_models(task, folder, model, split) if three else beside_peers(task, folder, model, split, repeat)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(
        f"{len(task.photos)} photos, {len(task.captions)} captions; {platform.processor() or platform.machine()}, "
    )
    for row in rows:
        click.echo("  ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))


if __name__ == "__main__":
    main()
