"""Match plans: batches, images that cannot be read, and the speed against transformers' own forward pass."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from blip_folder import BASE, write_random_blip
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipstore.encoders.blip_matching import MAX_TOKENS, BlipMatcher
from clipstore.encoders.images import decode_pixels
from clipstore.encoders.loading import load_model
from clipstore.errors import ImageError
from clipstore.inference.match import MatchSettings, batches, match
from clipstore.records import ImageFile, MatchingHead, MatchPlan, Model

HEAD = MatchingHead(fingerprint="f" * 64, precision="fp32")


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 200))
@examples(100)
def test_batches_hold_each_text_once_within_the_tokens(lengths: list[int], tokens: int) -> None:
    parts = batches(lengths, tokens)
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * max(lengths[row] for row in part) <= tokens for part in parts)


def plan_of(files: list[Path], texts: list[str], candidates: list[list[int]]) -> MatchPlan:
    images = [ImageFile(hashlib.sha256(file.read_bytes()).hexdigest(), str(file), 0) for file in files]
    keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    return MatchPlan(head=HEAD, images=images, texts=texts, text_contents=keys, candidates=candidates)


@pytest.fixture(scope="module")
def matcher(tmp_path_factory: pytest.TempPathFactory) -> BlipMatcher:
    folder = tmp_path_factory.mktemp("blip")
    write_random_blip(folder)
    return BlipMatcher(load_model(Model(name="b", family="blip", base=str(folder))))


def images(folder: Path, count: int) -> list[Path]:
    files = [folder / f"{number}.png" for number in range(count)]
    for number, file in enumerate(files):
        Image.new("RGB", (30, 20), (number * 60 % 256, 90, 200)).save(file)
    return files


def test_plans_give_the_scores_of_their_pairs(matcher: BlipMatcher, tmp_path: Path) -> None:
    """In the order of the plan, whatever the batches; texts of one plan occur in another."""
    files, texts = images(tmp_path, 3), ["two red circles", "a dog", "the man on the street with two dogs"]
    plans = [plan_of(files[:2], texts, [[0, 2], [1]]), plan_of(files[2:], texts[1:], [[0, 1]])]
    counted: list[int] = []
    settings = MatchSettings(matcher=matcher, batch_tokens=1, on_progress=counted.append)
    results = [scores for _, scores in match(plans, settings)]
    assert sum(counted) == 5
    assert [result.image.tolist() for result in results] == [[0, 0, 1], [0, 0]]
    assert [result.text.tolist() for result in results] == [[0, 2, 1], [0, 1]]
    ids = matcher.tokenize(texts)
    for plan, result, shift in zip(plans, results, (0, 1), strict=True):
        for image, text, score in zip(result.image, result.text, result.score, strict=True):
            pixels = decode_pixels(Path(plan.images[image].path).read_bytes(), matcher.preprocessing)
            expected = matcher.scores(matcher.encode_image(pixels), [ids[text + shift]])[0]
            assert score == pytest.approx(expected, abs=1e-5)


def test_an_image_that_cannot_be_read_is_named(matcher: BlipMatcher, tmp_path: Path) -> None:
    files = images(tmp_path, 2)
    plan = plan_of(files, ["a dog"], [[0], [0]])
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(ImageError, match=r"1\.png cannot be scored .* run the same command again"):
        list(match([plan], MatchSettings(matcher=matcher, batch_tokens=100)))


def test_the_memory_limits_the_batch(matcher: BlipMatcher) -> None:
    assert matcher.batch_tokens(0) == MAX_TOKENS
    assert MAX_TOKENS < matcher.batch_tokens(2 * 2**20) < matcher.batch_tokens(2**33)


@pytest.mark.full
def test_five_times_as_fast_as_transformers_forward(test_data: Path, tmp_path: Path) -> None:
    """BLIP base (384 pixels) with random weights, the same pairs in one run: 2 images with 24 captions each.

    transformers encodes the image for every pair, and pads texts to 35 tokens as BLIP's evaluation does.
    """
    root = test_data / "coco-mini"
    captions = json.loads((root / "annotations/captions_val2017.json").read_text())["annotations"]
    texts = list(dict.fromkeys(row["caption"] for row in captions))[:24]
    words = {word.strip(".,") for row in captions for word in row["caption"].lower().split()}
    write_random_blip(tmp_path / "base", pixels=(384, 16), sizes=BASE, words=sorted(filter(str.isalpha, words)))
    matcher = BlipMatcher(load_model(Model(name="b", family="blip", base=str(tmp_path / "base"))))
    files = sorted((root / "val2017").glob("*.jpg"))[:2]
    plan = plan_of(files, texts, [list(range(len(texts)))] * len(files))
    start = time.perf_counter()
    ((_, result),) = match([plan], MatchSettings(matcher=matcher, batch_tokens=matcher.batch_tokens(2**33)))
    seconds = time.perf_counter() - start

    ids = matcher.tokenize(texts)
    settings, expected = matcher.preprocessing, []
    start = time.perf_counter()
    for file in files:
        pixels = decode_pixels(file.read_bytes(), settings).astype(np.float32) * np.float32(settings.scale)
        values = (pixels - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)
        for text in ids:
            padding = MAX_TOKENS - len(text)
            with torch.inference_mode():
                output = matcher._blip(
                    input_ids=torch.tensor([[*text, *[0] * padding]]),
                    attention_mask=torch.tensor([[1] * len(text) + [0] * padding]),
                    pixel_values=torch.from_numpy(values).permute(2, 0, 1)[None],
                )
            expected.append(float(output.itm_score[0, 1]))
    ratio = (time.perf_counter() - start) / seconds
    tokens = np.mean([len(text) for text in ids])
    print(f"{len(expected)} pairs of {tokens:.1f} tokens, {torch.get_num_threads()} threads: ", end="")
    print(
        f"{len(expected) / seconds:.2f} pairs/s, transformers {len(expected) / seconds / ratio:.2f}, {ratio:.1f} times"
    )
    assert result.score == pytest.approx(expected, abs=1e-4)
    assert ratio >= 5
