"""What a GPU must give, on every device: `make gpu` runs these there, and the CPU shows that they can pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blip_folder import write_random_blip
from devices import every_device
from family_folders import SMALL
from helpers import stored_vectors, write_job

from clipstore.encoders.blip_matching import BlipMatcher
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families import recognise
from clipstore.encoders.loading import load_model
from clipstore.inference.batches import BatchSplitter
from clipstore.ranking import rank_pairs
from clipstore.records import Model

Run = Callable[..., Any]
EIGHT = 8 * 2**30  # bytes
REDUCED = {"cpu": "bf16", "cuda": "fp16"}  # the precision that suits each device
TEXTS = ["a man rides a horse", "a man rides a wave", "a"]


def model_of(folder: Path) -> Model:
    return Model(name="m", family=recognise(folder, str(folder)).name, base=str(folder))


# ---- ranking ----


@every_device
@pytest.mark.parametrize("kind", ["random", "near duplicates", "ties"])
def test_ranks_are_those_of_float64(kind: str, device: str) -> None:
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(count, 24)).astype(np.float32) for count in (150, 700))
    if kind == "near duplicates":
        texts = (images[rng.integers(0, 150, 700)] + 1e-4 * texts).astype(np.float32)
    if kind == "ties":
        images, texts = np.sign(images), np.sign(texts)
    pairs = np.stack([rng.integers(0, 150, 700), np.arange(700)], axis=1)
    ranks = rank_pairs(images, texts, pairs, top_k=5, device=device)
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    for side, matrix, own, other in (
        (ranks.image_to_text, scores, pairs[:, 0], pairs[:, 1]),
        (ranks.text_to_image, scores.T, pairs[:, 1], pairs[:, 0]),
    ):
        target = matrix[own, other][:, None]
        close = np.abs(matrix[own] - target) < 1e-12  # sums of float64 in another order
        assert np.array_equal(side.n_greater, ((matrix[own] > target) & ~close).sum(axis=1))
        assert np.array_equal(side.n_equal, close.sum(axis=1) - 1)
    on_cpu = rank_pairs(images, texts, pairs, top_k=5)
    for side, expected in ((ranks.image_to_text, on_cpu.image_to_text), (ranks.text_to_image, on_cpu.text_to_image)):
        assert np.array_equal(side.hits, expected.hits)
        assert np.array_equal(side.hit_scores, expected.hit_scores, equal_nan=True)
        assert np.array_equal(side.score, expected.score)


# ---- encoders ----


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {"clip": small_clip} | {name: write(root / name) for name, write in SMALL.items()}


def vectors_of(folder: Path, name: str, **options: Any) -> dict[str, np.ndarray]:
    encoder = Encoder(load_model(model_of(folder)), **options)
    sizes = [(64, 48), (40, 32)] if name == "naflex" else [encoder.preprocessing.crop] * 2
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    texts = encoder.text_vectors(encoder.tokenize(TEXTS).ids)
    return {"images": encoder.project(encoder.image_features(pixels)), "texts": texts} | encoder.probe()


def least_cosine(first: np.ndarray, second: np.ndarray) -> float:
    first, second = (np.atleast_2d(side).astype(np.float64) for side in (first, second))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / norms).min())


@every_device
@pytest.mark.parametrize("name", ["clip", *SMALL])
def test_vectors_are_those_of_the_cpu_in_fp32(name: str, device: str, folders: dict[str, Path]) -> None:
    exact = vectors_of(folders[name], name)
    for precision, least in (("fp32", 1 - 1e-5), (REDUCED[device], 0.995)):
        vectors = vectors_of(folders[name], name, precision=precision, device=device)
        for part, values in vectors.items():
            assert least_cosine(values, exact[part]) > least, (precision, part)


@every_device
def test_matching_scores_are_those_of_the_cpu(device: str, tmp_path: Path) -> None:
    write_random_blip(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    scores = []
    for place in ("cpu", device):
        matcher = BlipMatcher(load_model(model_of(tmp_path)), device=place)
        scores.append(matcher.scores(matcher.encode_image(pixels), matcher.tokenize(TEXTS)))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)


# ---- memory ----


@contextmanager
def card_of(device: str, memory: int) -> Iterator[None]:
    """Within the block, this process can allocate `memory` bytes on a GPU, as on a card of that size."""
    if device == "cpu":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(memory / torch.cuda.get_device_properties(device).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@every_device
def test_a_batch_that_does_not_fit_8_gb_is_halved(device: str, small_clip: Path) -> None:
    encoder, splitter = Encoder(load_model(model_of(small_clip)), device=device), BatchSplitter()
    rng, count = np.random.default_rng(0), 14_000 if device == "cuda" else 20  # of 1.05 MB on the device
    drawn = [rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) for _ in range(20)]
    images = [drawn[number % 20] for number in range(count)]
    with card_of(device, EIGHT):
        vectors, _ = splitter.run(lambda items: (encoder.image_features(items), None), images)
    assert (splitter.count > 1) == (device == "cuda")
    expected = encoder.image_features(drawn)
    np.testing.assert_allclose(vectors, expected[np.arange(count) % 20], rtol=1e-3, atol=1e-4)


# ---- commands ----


@every_device
def test_two_processes_embed_on_a_device(
    device: str, scene_store: Path, cli: Run, cli_json: Run, scenes: Path, tmp_path: Path
) -> None:
    exact = tmp_path / "exact"
    cli("ingest", "coco", scenes, "--store", exact)
    cli("embed", "--model", "demo", "--precision", "fp32", "--device", "cpu", "--store", exact)
    place = "cuda:0" if device == "cuda" else device
    words = ("--model", "demo", "--precision", "fp32", "--device", place, "--device", place)
    rows = cli_json("embed", *words)["embedded"]
    assert [row["done"] for row in rows] == [24, 120]
    for items in ("images", "captions"):
        vectors, expected = stored_vectors(scene_store, items), stored_vectors(exact, items)
        assert least_cosine(vectors, expected) > 1 - 1e-5


@every_device
def test_a_training_that_is_interrupted_gives_the_same_model(
    device: str, workspace: Path, cli: Run, cli_json: Run
) -> None:
    """Trained for one epoch and then, extended, for another: as trained for two at once."""
    losses = {}
    for name, runs in (("whole", (2,)), ("parts", (1, 2))):
        for epochs in runs:
            write_job(name, train=f"epochs = {epochs}")
            history = cli_json("train", "--model", name, "--device", device)["history"]
        losses[name] = [epoch["loss"] for epoch in history[1:]]
    assert len(losses["whole"]) == 2
    np.testing.assert_allclose(losses["parts"], losses["whole"], rtol=0 if device == "cpu" else 1e-4)
