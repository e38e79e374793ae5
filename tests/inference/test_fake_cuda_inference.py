"""Embedding and matching on a fake GPU: prefetch, batches, copies, and batches that do not fit its memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from blip_folder import write_random_blip
from fake_cuda import CUDA, FakeCard, fake_card
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError

from clipstore.encoders.blip_matching import BlipMatcher
from clipstore.encoders.encoder import Encoder
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.loading import load_model
from clipstore.errors import ModelError
from clipstore.inference.builder import EncodedRows
from clipstore.inference.encode import encode_rows
from clipstore.inference.match import MatchSettings, match
from clipstore.inference.settings import EncodeSettings
from clipstore.records import ImageFile, MatchingHead, MatchPlan, Model, PlanSource, ShardPlan
from clipstore.shards import LocalStorage

ITEMS = 48
TOWERS = {"image_files": 0, "texts": 1}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for number in range(ITEMS):
        Image.new("RGB", (30, 20), (number, 90, 200)).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(ITEMS)]


def key(source: str) -> str:
    """The content key of a file or a text."""
    return hashlib.sha256(Path(source).read_bytes() if source.endswith(".png") else source.encode()).hexdigest()


class Embedding:
    """A model and a plan of `ITEMS` items of one source."""

    def __init__(self, source: PlanSource, images: list[str], folder: Path, clip: Path) -> None:
        self.model = Model(name="m", family="clip", base=str(clip))
        self.folder = folder
        sources = images if source == "image_files" else [f"a man rides {number} horses" for number in range(ITEMS)]
        tower = fingerprint_towers(self.model, "fp16")[TOWERS[source]]
        self.plan = ShardPlan(tower=tower, source=source, contents=list(map(key, sources)), sources=sources, rows=[])

    @contextmanager
    def on_card(self, memory: float = float("inf")) -> Iterator[tuple[FakeCard, Encoder]]:
        """A card of some memory with the model on it."""
        loaded = load_model(self.model)  # a file is read before the card is there
        with fake_card(memory) as card:
            yield card, Encoder(loaded, precision="fp16", device=CUDA)

    def rows(self, encoder: Encoder, batch_tokens: int) -> tuple[EncodedRows, int]:
        """The rows of the plan, and the parts that batches were split into."""
        storage = LocalStorage(self.folder)
        settings = EncodeSettings(storage=storage, model=self.model, encoder=encoder, batch_tokens=batch_tokens)
        return encode_rows(self.plan, settings), settings.splitter.count


@pytest.fixture(params=["image_files", "texts"])
def embedding(request: pytest.FixtureRequest, images: list[str], tmp_path: Path, small_clip: Path) -> Embedding:
    return Embedding(request.param, images, tmp_path, small_clip)


def test_plans_are_encoded_on_the_device(embedding: Embedding) -> None:
    with embedding.on_card() as (card, encoder):
        weights = card.live
        rows, parts = embedding.rows(encoder, 512)
    assert rows.contents == embedding.plan.contents
    assert rows.vectors.shape == (ITEMS, embedding.plan.tower.dim)
    assert (parts, rows.failures) == (1, {})
    assert card.peak > weights


def test_tensors_that_stay_on_the_host_are_an_error(embedding: Embedding) -> None:
    with embedding.on_card() as (_, encoder):
        encoder.device = torch.device("cpu")  # of the inputs
        encoder._normalize._device = encoder.device
        with pytest.raises(FakeTensorDeviceMismatchError, match="at least two devices"):
            embedding.rows(encoder, 512)


def test_batches_are_halved_until_they_fit_the_card(embedding: Embedding) -> None:
    with embedding.on_card() as (whole, encoder):
        weights = whole.live
        embedding.rows(encoder, 10**6)
    memory = weights + (whole.peak - weights) // 3
    with embedding.on_card(memory) as (card, encoder):
        rows, parts = embedding.rows(encoder, 10**6)
    assert rows.contents == embedding.plan.contents
    assert rows.vectors.shape == (ITEMS, embedding.plan.tower.dim)
    assert parts in (2, 4, 8)
    assert card.refused == parts.bit_length() - 1
    assert card.peak <= memory


def test_a_card_without_memory_for_one_item_is_an_error(embedding: Embedding) -> None:
    with embedding.on_card() as (card, encoder):
        card.memory = card.live + 2000
        with pytest.raises(ModelError, match="out of device memory for a single item"):
            embedding.rows(encoder, 512)


@pytest.fixture
def matcher_files(tmp_path: Path) -> Path:
    write_random_blip(tmp_path / "blip")
    return tmp_path / "blip"


def match_plan(images: list[str]) -> MatchPlan:
    texts = ["two red circles", "a dog", "the man on the street with two dogs"]
    return MatchPlan(
        head=MatchingHead(fingerprint="f" * 64, precision="fp32"),
        images=[ImageFile(key(path), path, 0) for path in images[:4]],
        texts=texts,
        text_contents=list(map(key, texts)),
        candidates=[[0, 1, 2], [1], [2, 0], [0, 1]],
    )


def test_pairs_are_scored_on_the_device(matcher_files: Path, images: list[str]) -> None:
    loaded = load_model(Model(name="b", family="blip", base=str(matcher_files)))
    with fake_card() as card:
        matcher = BlipMatcher(loaded, precision="fp16", device=CUDA)
        weights = card.live
        ((_, scores),) = match([match_plan(images)], MatchSettings(matcher=matcher, batch_tokens=20))
        assert matcher.probe().dtype == np.float32
    assert scores.score.shape == (8,)
    assert card.peak > weights


def test_a_head_that_stays_on_the_host_is_an_error(matcher_files: Path, images: list[str]) -> None:
    loaded = load_model(Model(name="b", family="blip", base=str(matcher_files)))
    with fake_card():
        matcher = BlipMatcher(loaded, device=CUDA)
        matcher._blip.itm_head.cpu()
        with pytest.raises(FakeTensorDeviceMismatchError, match="at least two devices"):
            list(match([match_plan(images)], MatchSettings(matcher=matcher, batch_tokens=20)))
