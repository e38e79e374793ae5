"""Embedding beside its peers: the same photos, captions and weights, in one run, and whether the vectors agree.

    pip install --constraint constraints.txt '.[bench]'
    python tests/bench/peers_embed.py /data/coco --split val2017 --images 200
    python tests/bench/peers_embed.py /data/coco-captions-alone --captions 25014 --sample 1000
    python tests/bench/peers_embed.py /data/coco --split train2017 --split val2017 --three-models

The weights are a ViT-B/32's, random. Peers run in fp32, their default. The study's way is that of the notebooks this
grew from: batch 1, the image encoded once more for each of its captions, the pair padded to 77 tokens, once for each
model. Everything is read and decoded from disk each time. `--three-models` compares it, from the first photo to the
last vector, with `clipstore ingest` and `clipstore embed` as processes, their start, fingerprints and shards included;
the study's way is given its libraries and models ready-loaded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from clipstore.encoders.random_clip import write_random_clip
from clipstore.pipeline.embed.run import EmbedOptions, embed
from clipstore.pipeline.ingest.run import ingest_coco
from clipstore.process import retain_freed_memory
from clipstore.shards import normalize
from clipstore.store.layout import Store
from clipstore.store.model_records import add_model

BATCH, LONGEST = 32, 77
Floats = NDArray[np.float32]


class Task(NamedTuple):
    """The photos of some splits that are there, and captions with the number of their photo; all where none is."""

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


def ours(store: Store, splits: tuple[str, ...], name: str) -> tuple[dict[str, float], Floats, Floats]:
    """Items a second of both towers, and the vectors of the photos and captions of splits."""
    image, text = embed(store, [name], EmbedOptions(devices=("cpu",)))
    rates = {one.tower: one.done / one.seconds for one in (image, text) if one.done}
    told = clipstore.open(store.root)
    vectors = [
        np.concatenate([told.vectors(name, f"coco/{split}", what)[1] for split in splits]) if tower in rates else None
        for tower, what in (("image", "images"), ("text", "captions"))
    ]
    return rates, *vectors


def link(root: Path, splits: tuple[str, ...], folder: Path, images: int, captions: int) -> Task:
    """The first photos of each of a COCO folder's splits, with their captions, as a COCO folder of its own.

    Where no photo of a split is there, its captions are taken alone.
    """
    task = Task([], [], [])
    (folder / "annotations").mkdir(parents=True)
    for split in splits:
        told = json.loads((root / "annotations" / f"captions_{split}.json").read_text())
        there = [one for one in told["images"] if (root / split / one["file_name"]).is_file()][:images]
        kept = {one["id"]: len(task.photos) + place for place, one in enumerate(there)}
        if not there:
            kept = {one["id"]: -1 for one in told["images"]}
        by_image: dict[int, list[dict]] = {number: [] for number in kept}
        for record in told["annotations"]:
            by_image.get(record["image_id"], []).append(record)
        records = [record for own in by_image.values() for record in own][:captions]  # as the store lists them
        (folder / split).mkdir()
        for one in there:
            task.photos.append(folder / split / one["file_name"])
            task.photos[-1].symlink_to((root / split / one["file_name"]).absolute())
        linked = {"images": there or told["images"], "annotations": records}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(linked))
        task.captions.extend(record["caption"] for record in records)
        task.of.extend(kept[record["image_id"]] for record in records)
    return task


def rate(work: Callable[[list], Floats], items: list) -> tuple[float, Floats]:
    began = time.perf_counter()
    made = work(items)
    return len(items) / (time.perf_counter() - began), made


def least_cosine(one: Floats, other: Floats) -> float:
    return float((normalize(one, "float64") * normalize(other, "float64")).sum(axis=1).min())


def beside_peers(
    task: Task, folder: Path, model: Path, splits: tuple[str, ...], sample: int, repeat: int
) -> list[dict]:
    """Rates of all, in turn; medians. Peers see a sample, of distinct captions: we skip the others."""
    photos = spread(range(len(task.photos)), sample)
    last = {caption: row for row, caption in enumerate(task.captions)}
    captions = spread(list(last.values()), sample)
    plain = Transformers(model)
    peers = [
        plain.peer("transformers, one by one, padded to 77", 1, "max_length"),
        plain.peer(f"transformers, batches of {BATCH}, padded to 77", BATCH, "max_length"),
        plain.peer(f"transformers, batches of {BATCH}, padded to the longest", BATCH, True),
        sentence_transformers(model),
    ]
    rates: dict[str, list[dict[str, float]]] = {}
    agree: dict[str, float] = {}
    for turn in range(repeat):
        store = Store(folder / f"store{turn}")
        ingest_coco(store, folder / "coco", splits=())
        add_model(store, "b32", base=str(model))
        told, *vectors = ours(store, splits, "b32")
        rates.setdefault("clipstore", []).append(told)
        for peer in peers:
            told = {}
            for tower, work, items, rows, own in (
                ("image", peer.images, task.photos, photos, vectors[0]),
                ("text", peer.texts, task.captions, captions, vectors[1]),
            ):
                if rows:
                    told[tower], made = rate(work, [items[row] for row in rows])
                    agree[peer.name] = min(least_cosine(own[rows], made), agree.get(peer.name, 1.0))
            rates.setdefault(peer.name, []).append(told)
    middle = {
        name: {tower: statistics.median(one[tower] for one in told) for tower in told[0]}
        for name, told in rates.items()
    }
    return [
        {"what": name}
        | {f"{tower}s_per_second": one for tower, one in told.items()}
        | {f"{tower}s_ratio": middle["clipstore"][tower] / one for tower, one in told.items()}
        | {"least_cosine_to_ours": agree.get(name)}
        for name, told in middle.items()
    ]


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most so many of the items, evenly spread."""
    return list(items[:: -(-len(items) // most) or 1])


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


def three_models(task: Task, folder: Path, model: Path) -> list[dict]:
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
@click.option("--split", "splits", default=("val2017",), show_default=True, multiple=True)
@click.option("--images", default=200, show_default=True, type=click.IntRange(1), help="At most, of each split.")
@click.option("--captions", default=1000, show_default=True, type=click.IntRange(1), help="At most, of each split.")
@click.option("--sample", default=1000, show_default=True, type=click.IntRange(1), help="What peers see at most.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--three-models", "three", is_flag=True, help="Compare the study's way instead, over all pairs.")
@click.option("--json", "as_json", is_flag=True)
def main(
    *,
    root: Path,
    splits: tuple[str, ...],
    images: int,
    captions: int,
    sample: int,
    repeat: int,
    three: bool,
    as_json: bool,
) -> None:
    """Embed the photos and captions of ROOT, a COCO folder; its captions alone where it has no photos."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from clip_vocabulary import write_clip_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    retain_freed_memory()
    with tempfile.TemporaryDirectory(prefix="clipstore-peers-") as place:
        folder = Path(place)
        task = link(root, splits, folder / "coco", images, captions)
        if three and -1 in task.of:
            message = "--three-models wants splits whose photos are there"
            raise click.UsageError(message)
        model = write_random_clip(folder / "model", tokenizer=write_clip_tokenizer(folder / "tokenizer"))
        rows = three_models(task, folder, model) if three else beside_peers(task, folder, model, splits, sample, repeat)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"{len(task.photos)} photos, {len(task.captions)} captions")
    for row in rows:
        told = (f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items())
        click.echo("  ".join(told))


if __name__ == "__main__":
    main()
