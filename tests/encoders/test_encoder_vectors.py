"""Vectors equal those of transformers, whatever the batch; encoding changes no setting of the process."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_folder import build_clip, edit_json
from encoder_helpers import (
    LONG,
    MIXED,
    image_bytes,
    model_of,
    open_encoder,
    our_images,
    our_texts,
    pooled,
    unit,
)
from huggingface_hub.utils import are_progress_bars_disabled
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.utils import logging

from clipstore.encoders.decoding import MAX_PIXELS, decode_image
from clipstore.errors import ImageError, ModelError

COSINE = 0.99999


def transformers_vectors(folder: Path, files: list[Path], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        pixels = processor([Image.open(file) for file in files], return_tensors="pt")
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return pooled(model.get_image_features(**pixels)), pooled(model.get_text_features(**tokens))


def assert_agree(actual: np.ndarray, expected: np.ndarray) -> None:
    """The cosine of each vector to the expected one is above the bound, also after subtracting the common mean."""
    assert actual.dtype == np.float32
    assert (unit(actual) * unit(expected)).sum(axis=1).min() > COSINE
    mean = expected.mean(axis=0)
    assert (unit(actual - mean) * unit(expected - mean)).sum(axis=1).min() > 0.9999


def assert_vectors_agree(folder: Path, files: list[Path], texts: list[str]) -> None:
    encoder = open_encoder(model_of(folder))
    images, captions = transformers_vectors(folder, files, texts)
    assert_agree(our_images(encoder, files), images)
    assert_agree(our_texts(encoder, texts), captions)


def test_the_tokenizer_is_openais(small_clip: Path) -> None:
    encoder = open_encoder(model_of(small_clip))
    assert encoder.tokenize(["a photo of a cat"]).ids == [[49406, 320, 1125, 539, 320, 2368, 49407]]


@pytest.mark.parametrize("old", [True, False], ids=["eos 2", "eos 49407"])
def test_vectors_agree_with_transformers(
    old: bool, image_files: list[Path], captions: list[str], tmp_path: Path
) -> None:
    folder = build_clip(tmp_path / "clip", small=True, old=old)
    assert_vectors_agree(folder, image_files[::8], [*captions, *MIXED])


@pytest.mark.full
@pytest.mark.parametrize("old", [True, False], ids=["eos 2", "eos 49407"])
def test_vectors_of_full_size_agree_with_transformers(
    old: bool, full_clip: Path, image_files: list[Path], captions: list[str], tmp_path: Path
) -> None:
    folder = full_clip if old else build_clip(tmp_path / "clip", small=False, old=False)
    assert_vectors_agree(folder, image_files, [*captions, *MIXED])


def test_the_bundled_model_agrees_with_transformers(image_files: list[Path], captions: list[str]) -> None:
    folder = Path(sys.modules["clipstore"].__file__).parent / "demo/model"
    assert_vectors_agree(folder, image_files[::8], captions)


def test_a_long_caption_is_truncated_as_by_transformers_and_counted(small_clip: Path) -> None:
    texts = ["a cat", LONG, "a dog", LONG + " again"]
    tokenized = open_encoder(model_of(small_clip)).tokenize(texts)
    tokenizer = AutoTokenizer.from_pretrained(small_clip)
    assert tokenized.ids == tokenizer(texts, truncation=True)["input_ids"]
    assert list(map(len, tokenized.ids)) == [4, 77, 4, 77]
    assert tokenized.cut == 2


def test_an_end_token_that_no_text_has_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())["text_config"]
    edit_json(folder / "config.json", text_config=settings | {"eos_token_id": 7})
    with pytest.raises(ModelError, match=r"the end token 7,.* \[49406, 320, 2368, 49407\]"):
        our_texts(open_encoder(model_of(folder)), ["a cat"])


def test_a_caption_of_exactly_the_maximum_is_not_truncated(small_clip: Path) -> None:
    tokenized = open_encoder(model_of(small_clip)).tokenize([" ".join(["cat"] * 75), " ".join(["cat"] * 76)])
    assert (list(map(len, tokenized.ids)), tokenized.cut) == ([77, 77], 1)


def test_vectors_do_not_depend_on_their_batch(small_clip: Path, image_files: list[Path], captions: list[str]) -> None:
    encoder = open_encoder(model_of(small_clip))
    texts = [*captions[:20], *MIXED]
    single_texts = np.concatenate([our_texts(encoder, [text]) for text in texts])
    np.testing.assert_allclose(our_texts(encoder, texts), single_texts, atol=1e-5)
    single_images = np.concatenate([our_images(encoder, [file]) for file in image_files[:10]])
    np.testing.assert_allclose(our_images(encoder, image_files[:10]), single_images, atol=1e-5)


def test_bf16_is_close_to_fp32(small_clip: Path, image_files: list[Path]) -> None:
    encoders = [open_encoder(model_of(small_clip), precision=precision) for precision in ("fp32", "bf16")]
    fp32, bf16 = (our_images(encoder, image_files[:8]) for encoder in encoders)
    assert not np.array_equal(fp32, bf16)
    assert (unit(fp32) * unit(bf16)).sum(axis=1).min() > 0.999


def test_less_memory_gives_smaller_batches(small_clip: Path) -> None:
    encoder = open_encoder(model_of(small_clip))
    sizes = [encoder.batch_tokens("image", memory) for memory in (-1, 2**22, 2**33)]
    assert sizes[0] == encoder.image_tokens == 50 < sizes[1] < sizes[2]
    assert encoder.batch_tokens("text", 0) == 128  # a row of texts


# Settings of the process


def test_loading_a_model_changes_no_setting_of_the_process(small_clip: Path) -> None:
    def settings() -> tuple[Any, ...]:
        bars = logging.is_progress_bar_enabled(), are_progress_bars_disabled()
        return logging.get_verbosity(), bars, torch.get_num_threads(), list(warnings.filters), Image.MAX_IMAGE_PIXELS

    before = settings()
    encoder = open_encoder(model_of(small_clip))
    encoder.probe()
    our_texts(encoder, MIXED)
    assert settings() == before


@pytest.mark.full
def test_importing_the_encoders_changes_no_warning_filter() -> None:
    program = """
import PIL.Image, huggingface_hub, peft, torch, transformers, warnings
before = list(warnings.filters)
import clipstore.encoders.lora, clipstore.encoders.merged, clipstore.encoders.random_clip
assert warnings.filters == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_an_image_above_the_limit_is_refused_whatever_the_filters() -> None:
    """Pillow warns above its limit, and raises an error above twice its limit."""
    width = MAX_PIXELS // 1000 + 1
    data = image_bytes(Image.new("1", (width, 1000)), "PNG")
    for action in ("ignore", "error"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(ImageError, match=f"{MAX_PIXELS}"):
                decode_image(data)
