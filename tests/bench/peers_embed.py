"""Compare the rate of embedding with peers, on the same images, captions and weights in one run; vectors are compared.

    pip install --constraint constraints.txt '.[bench]'
    python tests/bench/peers_embed.py /data/coco --split val2017 --images 200
    python tests/bench/peers_embed.py /data/coco-captions-alone --captions 25014 --sample 1000
    python tests/bench/peers_embed.py /data/coco --split train2017 --split val2017 --three-models

The model is a ViT-B/32 with random weights. Peers run in fp32, their default. The notebooks that this project replaced
use batch size 1, encode an image again for each of its captions, pad captions to 77 tokens, and repeat everything for
each model. Files are read and decoded each time. `--three-models` compares the notebooks' way, from the first image to
the last vector, with `clipstore ingest` and `clipstore embed` as processes, including their startup, fingerprints and
shards; the libraries and models of the notebooks are loaded beforehand.
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
    """The existing image files of some splits, and captions with the number of their image (-1: no image exists)."""

    images: list[Path]
    captions: list[str]
    image_numbers: list[int]


class Peer(NamedTuple):
    """Another way to embed images and captions."""

    name: str
    images: Callable[[list[Path]], Floats]
    texts: Callable[[list[str]], Floats]


def open_image(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


class Transformers:
    """CLIPModel and the parts of its processor, as its documentation uses them."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.processor = CLIPImageProcessorPil.from_pretrained(folder)

    @torch.inference_mode()
    def encode_images(self, paths: list[Path]) -> torch.Tensor:
        pixels = self.processor(images=[open_image(path) for path in paths], return_tensors="pt")
        return self.model.get_image_features(**pixels).pooler_output

    @torch.inference_mode()
    def encode_texts(self, texts: list[str], padding: str | bool) -> torch.Tensor:
        tokens = self.tokenizer(texts, padding=padding, max_length=LONGEST, truncation=True, return_tensors="pt")
        return self.model.get_text_features(**tokens).pooler_output

    def peer(self, name: str, batch: int, padding: str | bool) -> Peer:
        return Peer(
            name,
            lambda paths: torch.cat([self.encode_images(part) for part in parts(paths, batch)]).numpy(),
            lambda texts: torch.cat([self.encode_texts(part, padding) for part in parts(texts, batch)]).numpy(),
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
        lambda paths: model.encode([open_image(path) for path in paths], batch_size=BATCH),
        lambda texts: model.encode(texts, batch_size=BATCH),
    )


def embed_by_clipstore(store: Store, splits: tuple[str, ...], name: str) -> tuple[dict[str, float], Floats, Floats]:
    """Items per second of both towers, and the vectors of the images and captions of splits."""
    image, text = embed(store, [name], EmbedOptions(devices=("cpu",)))
    rates = {summary.tower: summary.done / summary.seconds for summary in (image, text) if summary.done}
    opened = clipstore.open(store.root)
    vectors = [
        np.concatenate([opened.vectors(name, f"coco/{split}", items)[1] for split in splits])
        if tower in rates
        else None
        for tower, items in (("image", "images"), ("text", "captions"))
    ]
    return rates, *vectors


def link(root: Path, splits: tuple[str, ...], folder: Path, images: int, captions: int) -> Task:
    """Write a COCO folder with the first images of each split of another, as links, and their captions.

    All captions of a split are taken where none of its image files exist.
    """
    task = Task([], [], [])
    (folder / "annotations").mkdir(parents=True)
    for split in splits:
        content = json.loads((root / "annotations" / f"captions_{split}.json").read_text())
        present = [image for image in content["images"] if (root / split / image["file_name"]).is_file()][:images]
        numbers = {image["id"]: len(task.images) + place for place, image in enumerate(present)}
        if not present:
            numbers = {image["id"]: -1 for image in content["images"]}
        by_image: dict[int, list[dict]] = {number: [] for number in numbers}
        for record in content["annotations"]:
            by_image.get(record["image_id"], []).append(record)
        records = [record for records in by_image.values() for record in records][:captions]  # in the store's order
        (folder / split).mkdir()
        for image in present:
            task.images.append(folder / split / image["file_name"])
            task.images[-1].symlink_to((root / split / image["file_name"]).absolute())
        linked = {"images": present or content["images"], "annotations": records}
        (folder / "annotations" / f"captions_{split}.json").write_text(json.dumps(linked))
        task.captions.extend(record["caption"] for record in records)
        task.image_numbers.extend(numbers[record["image_id"]] for record in records)
    return task


def rate(work: Callable[[list], Floats], items: list) -> tuple[float, Floats]:
    start = time.perf_counter()
    vectors = work(items)
    return len(items) / (time.perf_counter() - start), vectors


def least_cosine(vectors: Floats, others: Floats) -> float:
    return float((normalize(vectors, "float64") * normalize(others, "float64")).sum(axis=1).min())


def compare_peers(
    task: Task, folder: Path, model: Path, splits: tuple[str, ...], sample: int, repeat: int
) -> list[dict]:
    """Rates of clipstore and its peers in turn; medians. Peers get a sample of distinct captions, as clipstore does."""
    images = spread(range(len(task.images)), sample)
    last = {caption: row for row, caption in enumerate(task.captions)}
    captions = spread(list(last.values()), sample)
    transformers = Transformers(model)
    peers = [
        transformers.peer("transformers, one by one, padded to 77", 1, "max_length"),
        transformers.peer(f"transformers, batches of {BATCH}, padded to 77", BATCH, "max_length"),
        transformers.peer(f"transformers, batches of {BATCH}, padded to the longest", BATCH, True),
        sentence_transformers(model),
    ]
    rates: dict[str, list[dict[str, float]]] = {}
    cosines: dict[str, float] = {}
    for turn in range(repeat):
        store = Store(folder / f"store{turn}")
        ingest_coco(store, folder / "coco", splits=())
        add_model(store, "b32", base=str(model))
        by_tower, *vectors = embed_by_clipstore(store, splits, "b32")
        rates.setdefault("clipstore", []).append(by_tower)
        for peer in peers:
            by_tower = {}
            for tower, work, items, rows, expected in (
                ("image", peer.images, task.images, images, vectors[0]),
                ("text", peer.texts, task.captions, captions, vectors[1]),
            ):
                if rows:
                    by_tower[tower], result = rate(work, [items[row] for row in rows])
                    cosines[peer.name] = min(least_cosine(expected[rows], result), cosines.get(peer.name, 1.0))
            rates.setdefault(peer.name, []).append(by_tower)
    medians = {
        name: {tower: statistics.median(turn[tower] for turn in turns) for tower in turns[0]}
        for name, turns in rates.items()
    }
    return [
        {"what": name}
        | {f"{tower}s_per_second": value for tower, value in by_tower.items()}
        | {f"{tower}s_ratio": medians["clipstore"][tower] / value for tower, value in by_tower.items()}
        | {"least_cosine_to_clipstore": cosines.get(name)}
        for name, by_tower in medians.items()
    ]


def spread(items: Sequence[int], most: int) -> list[int]:
    """At most this many of the items, evenly spaced."""
    return list(items[:: -(-len(items) // most) or 1])


def write_adapter(model: Path, folder: Path, *, heads: bool) -> Path:
    """Write a text LoRA, with trained heads where `heads` is set."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        tuned = get_peft_model(CLIPModel.from_pretrained(model), LoraConfig(r=8, target_modules=r".*text.*[qv]_proj"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    tuned.save_pretrained(folder)
    if heads:
        clip = CLIPModel.from_pretrained(model)
        weights = {
            f"{side}_projection.weight": getattr(clip, f"{side}_projection").weight for side in ("text", "visual")
        }
        scaled = {name: (weight * 1.01).detach().contiguous() for name, weight in weights.items()}
        save_file(scaled, folder / "heads.safetensors")
    return folder


def compare_three_models(task: Task, folder: Path, model: Path) -> list[dict]:
    """Embed all pairs by a pretrained model, one with a text LoRA, and one with heads too: as notebooks, and cold."""
    adapters = [write_adapter(model, folder / name, heads=heads) for name, heads in (("lora", False), ("headed", True))]
    environment = os.environ | {"CLIPSTORE_STORE": str(folder / "cold"), "HF_HUB_OFFLINE": "1"}

    def run(*words: object) -> None:
        command = [sys.executable, "-c", "from clipstore.cli import main; main()", *map(str, words)]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    start = time.perf_counter()
    run("ingest", "coco", folder / "coco")
    run("model", "add", "plain", "--base", model)
    for adapter in adapters:
        run("model", "add", adapter.name, "--base", model, "--adapter", adapter)
    run("embed", "--model", "plain", "--model", "lora", "--model", "headed")
    cold = time.perf_counter() - start
    start = time.perf_counter()
    run("embed", "--model", "plain", "--model", "lora", "--model", "headed")
    again = time.perf_counter() - start
    transformers = Transformers(model)  # a merged adapter costs what the base costs: one model stands for all three
    start = time.perf_counter()
    for _ in range(3):
        for caption, number in zip(task.captions, task.image_numbers, strict=True):
            transformers.encode_images([task.images[number]])
            transformers.encode_texts([caption], "max_length")
    notebook = time.perf_counter() - start
    return [
        {"what": "notebooks", "seconds": notebook, "ratio": 1.0},
        {"what": "clipstore, cold", "seconds": cold, "ratio": notebook / cold},
        {"what": "clipstore embed again", "seconds": again, "ratio": notebook / again},
    ]


@click.command()
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--split", "splits", default=("val2017",), show_default=True, multiple=True)
@click.option("--images", default=200, show_default=True, type=click.IntRange(1), help="Maximum of each split.")
@click.option("--captions", default=1000, show_default=True, type=click.IntRange(1), help="Maximum of each split.")
@click.option("--sample", default=1000, show_default=True, type=click.IntRange(1), help="Maximum items of a peer.")
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--three-models", "three", is_flag=True, help="Compare with the notebooks, over all pairs.")
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
    """Embed the images and captions of ROOT, a COCO folder; only captions where no image files exist."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from clip_vocabulary import write_clip_tokenizer

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    retain_freed_memory()
    with tempfile.TemporaryDirectory(prefix="clipstore-peers-") as place:
        folder = Path(place)
        task = link(root, splits, folder / "coco", images, captions)
        if three and -1 in task.image_numbers:
            message = "--three-models requires splits whose image files exist"
            raise click.UsageError(message)
        model = write_random_clip(folder / "model", tokenizer=write_clip_tokenizer(folder / "tokenizer"))
        if three:
            rows = compare_three_models(task, folder, model)
        else:
            rows = compare_peers(task, folder, model, splits, sample, repeat)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"{len(task.images)} images, {len(task.captions)} captions")
    for row in rows:
        values = (f"{key} {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items())
        click.echo("  ".join(values))


if __name__ == "__main__":
    main()
