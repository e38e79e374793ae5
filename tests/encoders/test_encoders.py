"""The encoder agrees with transformers, fingerprints change with the vectors, and invalid models are refused."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_folder import build_clip, build_lora, edit_json
from huggingface_hub.utils import are_progress_bars_disabled
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.utils import logging

from clipstore.encoders.clip import ClipEncoder
from clipstore.encoders.fingerprint import describe
from clipstore.encoders.forward import _plain_attention
from clipstore.encoders.images import MAX_PIXELS, decode_image, decode_pixels, read_preprocessing
from clipstore.encoders.loading import load_clip
from clipstore.encoders.packing import Packed, batches_of, pack
from clipstore.errors import ImageError, ModelError
from clipstore.records import Model, Tower

COSINE = 0.99999
LONG = "a photo of " + ", ".join(f"{n} cats and {n} dogs" for n in range(60))


def model_of(folder: Path, **options: Any) -> Model:
    return Model(name="m", family="clip", base=str(folder), **options)


def open_encoder(model: Model, **options: Any) -> ClipEncoder:
    return ClipEncoder(load_clip(model), **options)


@pytest.fixture
def folder(small_clip: Path, tmp_path: Path) -> Path:
    """A copy of the small model, to be changed by the test."""
    return Path(shutil.copytree(small_clip, tmp_path / "clip"))


@pytest.fixture(scope="module")
def image_files(test_data: Path) -> list[Path]:
    files = sorted((test_data / "coco-mini").glob("*2017/*.jpg"))
    assert len(files) == 80 + 159
    return files


@pytest.fixture(scope="module")
def captions(test_data: Path) -> list[str]:
    annotations = json.loads((test_data / "coco-mini/annotations/captions_val2017.json").read_text())
    return [row["caption"] for row in annotations["annotations"]]


# Preprocessing


def transformers_pixels(image: Image.Image, folder: Path) -> np.ndarray:
    return CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="np")["pixel_values"][0]


def our_pixels(data: bytes, folder: Path) -> np.ndarray:
    preprocessing = read_preprocessing(folder / "preprocessor_config.json")
    pixels = decode_pixels(data, preprocessing)
    return ((pixels * preprocessing.scale - preprocessing.mean) / preprocessing.std).transpose(2, 0, 1)


def assert_same_pixels(data: bytes, folder: Path) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = transformers_pixels(image, folder)
    assert np.abs(our_pixels(data, folder) - expected).max() < 1e-5


def image_bytes(image: Image.Image, file_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def test_pixels_equal_those_of_transformers_on_coco(image_files: list[Path], small_clip: Path) -> None:
    for file in image_files:
        assert_same_pixels(file.read_bytes(), small_clip)


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (1, 300), (300, 1), (7, 5), (223, 225), (224, 224), (225, 224), (500, 333), (337, 901)],
)
def test_pixels_equal_those_of_transformers_at_odd_sizes(width: int, height: int, small_clip: Path) -> None:
    assert_same_pixels(image_bytes(noise(width, height), "PNG"), small_clip)


@pytest.mark.parametrize(
    ("mode", "file_format"), [("L", "JPEG"), ("CMYK", "JPEG"), ("1", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")]
)
def test_pixels_equal_those_of_transformers_in_other_modes(mode: str, file_format: str, small_clip: Path) -> None:
    image = noise(301, 257).convert("1") if mode == "1" else noise(301, 257, mode)
    assert_same_pixels(image_bytes(image, file_format), small_clip)


@pytest.mark.parametrize("transparency", [3, bytes(range(256))], ids=["index", "table"])
def test_pixels_equal_those_of_transformers_for_a_palette_with_transparency(
    transparency: int | bytes, small_clip: Path
) -> None:
    buffer = io.BytesIO()
    noise(300, 260).quantize(256).save(buffer, "PNG", transparency=transparency)
    assert_same_pixels(buffer.getvalue(), small_clip)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 200}},  # smaller than the crop: black around
        {"size": {"height": 180, "width": 250}, "do_center_crop": False},
        {"size": {"shortest_edge": 300}, "crop_size": {"height": 224, "width": 160}},
        {"do_resize": False},
        {"resample": 2},
        {"do_normalize": False},
        {"do_normalize": False, "do_rescale": False},
        {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
    ],
    ids=str,
)
def test_pixels_equal_those_of_transformers_with_other_settings(change: dict[str, Any], folder: Path) -> None:
    edit_json(folder / "preprocessor_config.json", **change)
    for size in ((333, 251), (91, 120)):
        assert_same_pixels(image_bytes(noise(*size), "PNG"), folder)


# Vectors


def transformers_vectors(folder: Path, files: list[Path], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        pixels = processor([Image.open(file) for file in files], return_tensors="pt")
        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return pooled(model.get_image_features(**pixels)), pooled(model.get_text_features(**tokens))


def pooled(output: Any) -> np.ndarray:
    return getattr(output, "pooler_output", output).numpy()


def our_images(encoder: ClipEncoder, files: list[Path]) -> np.ndarray:
    pixels = np.stack([decode_pixels(file.read_bytes(), encoder.preprocessing) for file in files])
    return encoder.project(encoder.image_features(pixels))


def our_texts(encoder: ClipEncoder, texts: list[str]) -> np.ndarray:
    return encoder.text_vectors(encoder.tokenize(texts).ids)


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


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


MIXED = [
    "cat",
    "A  Photo of a CAT!!",
    "naïve café — 猫, 'don't' #5 😀",
    "  two\tdogs\nrun ",
    LONG,
]


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
    sizes = [encoder.batch_tokens("image", memory) for memory in (-1, 2**20, 2**33)]
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
            with pytest.raises(ImageError, match=f"more than {MAX_PIXELS} pixels"):
                decode_image(data)


# Packed texts

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=40) | st.lists(st.just(1), min_size=1, max_size=140))


def attended_tokens(packed: Packed, text: int) -> list[tuple[int, int]]:
    """The tokens that the last token of a text attends to, itself included, in order, with their positions."""
    row, end = divmod(int(packed.ends[text]), packed.tokens.shape[1])
    places = np.flatnonzero(packed.attends[row, end])
    assert places[-1] == end
    for count, place in enumerate(places, 1):  # each token attends to those before it
        assert np.array_equal(np.flatnonzero(packed.attends[row, place]), places[:count])
    return list(zip(packed.tokens[row, places].tolist(), packed.positions[row, places].tolist(), strict=True))


@given(TEXTS.filter(bool))
def test_a_packed_text_attends_to_its_own_tokens_only(texts: list[list[int]]) -> None:
    packed = pack(texts)
    for number, text in enumerate(texts):
        assert attended_tokens(packed, number) == [(token, position) for position, token in enumerate(text)]
    assert packed.attends.any(axis=2).all()


@given(TEXTS, st.integers(0, 700))
def test_batches_of_texts_have_at_most_the_given_tokens(texts: list[list[int]], tokens: int) -> None:
    batches = list(batches_of(texts, tokens))
    assert sorted(number for batch in batches for number in batch) == list(range(len(texts)))
    for batch in batches:
        packed = pack([texts[number] for number in batch]).tokens
        assert packed.size <= tokens or packed.shape[0] == 1


def test_texts_with_a_common_prefix_share_its_tokens() -> None:
    packed = pack([[7, 1, 2, 3, 8], [7, 1, 2, 4, 8], [7, 1, 2, 3, 8], [7, 5, 8]])
    assert packed.tokens.tolist() == [[7, 1, 2, 3, 8, 4, 8, 5, 8]]
    assert packed.ends.tolist() == [4, 6, 4, 8]


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)))
def test_plain_attention_equals_torchs(seed: int, shape: tuple[int, int, int]) -> None:
    draw = torch.Generator().manual_seed(seed)
    parts = [torch.randn(*shape, 8, generator=draw) for _ in range(3)]
    bias = torch.randn(shape[0], 1, shape[2], shape[2], generator=draw)
    torch.testing.assert_close(_plain_attention(*parts, bias), scaled_dot_product_attention(*parts, attn_mask=bias))


# Fingerprints

IGNORED = {"transformers_version": "9", "_name_or_path": "x", "dtype": "float16", "torch_dtype": "float16"}


def edit_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name] + 0.25
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def fingerprints(model: Model, precision: str = "fp32") -> dict[str, str | None]:
    image, text = describe(model, precision)
    return {"image": image.fingerprint, "backbone": image.backbone, "text": text.fingerprint}


def changed_parts(before: dict[str, str | None], after: dict[str, str | None]) -> set[str]:
    return {part for part in before if before[part] != after[part]}


def edit_config(folder: Path, **changes: Any) -> None:
    edit_json(folder / "config.json", **changes)


def edit_tower(folder: Path, tower: str, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit_config(folder, **{f"{tower}_config": config[f"{tower}_config"] | changes})


def edit_preprocessor(folder: Path, **changes: Any) -> None:
    edit_json(folder / "preprocessor_config.json", **changes)


def add_merge(folder: Path) -> None:
    with (folder / "merges.txt").open("a") as merges:
        merges.write("zz yy\n")


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (partial(edit_tensor, name="text_model.final_layer_norm.weight"), {"text"}),
        (partial(edit_tensor, name="text_projection.weight"), {"text"}),
        (partial(edit_tensor, name="visual_projection.weight"), {"image"}),
        (partial(edit_tensor, name="vision_model.post_layernorm.bias"), {"image", "backbone"}),
        (partial(edit_tensor, name="logit_scale"), set()),
        (partial(edit_preprocessor, resample=2), {"image", "backbone"}),
        (partial(edit_preprocessor, image_mean=[0.5, 0.5, 0.5]), {"image", "backbone"}),
        (partial(edit_tower, tower="vision", hidden_act="gelu"), {"image", "backbone"}),
        (partial(edit_tower, tower="text", hidden_act="gelu"), {"text"}),
        (add_merge, {"text"}),
        (partial(edit_config, **IGNORED), set()),
        (partial(edit_tower, tower="vision", **IGNORED), set()),
    ],
)  # fmt: skip
def test_a_fingerprint_changes_with_what_decides_its_vectors(
    edit: Callable[[Path], None], expected: set[str], folder: Path
) -> None:
    before = fingerprints(model_of(folder))
    edit(folder)
    assert changed_parts(before, fingerprints(model_of(folder))) == expected


@pytest.mark.parametrize(
    ("options", "precision", "expected"),
    [
        ({"prompt": "a photo of {}"}, "fp32", {"text"}),
        ({"clean": True}, "fp32", {"text"}),
        ({}, "fp16", {"image", "backbone", "text"}),
    ],
)
def test_a_fingerprint_changes_with_the_job(
    options: dict[str, Any], precision: str, expected: set[str], small_clip: Path
) -> None:
    before, after = fingerprints(model_of(small_clip)), fingerprints(model_of(small_clip, **options), precision)
    assert changed_parts(before, after) == expected


def test_a_copy_has_the_same_fingerprints(folder: Path, small_clip: Path) -> None:
    assert fingerprints(model_of(folder)) == fingerprints(model_of(small_clip))


def test_sharded_weights_have_the_same_fingerprints(folder: Path, small_clip: Path) -> None:
    CLIPModel.from_pretrained(small_clip).save_pretrained(folder, max_shard_size="3MB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    assert fingerprints(model_of(folder)) == fingerprints(model_of(small_clip))


def test_a_tower_has_the_dimensions_of_its_vectors(small_clip: Path) -> None:
    image, text = describe(model_of(small_clip), "fp32")
    encoder = open_encoder(model_of(small_clip))
    features = encoder.image_features(np.zeros((1, *encoder.preprocessing.crop, 3), dtype=np.uint8))
    assert features.shape == (1, image.features_dim) == (1, 48)
    assert encoder.project(features).shape == (1, image.dim) == (1, 32)
    assert encoder.text_vectors(encoder.tokenize(["a cat"]).ids).shape == (1, text.dim) == (1, 32)
    assert isinstance(image, Tower)


# Adapters


ON_TEXT = r".*text_model.*\.(q_proj|v_proj)"
ON_VISION = r".*vision_model.*\.(q_proj|v_proj)"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"targets": ON_TEXT}, {"text"}),
        ({"targets": ON_VISION}, {"image", "backbone"}),
        ({"targets": ["text_projection"]}, {"text"}),
        ({"targets": ["visual_projection"]}, {"image"}),
        ({"targets": ON_TEXT, "modules_to_save": ["visual_projection"]}, {"text", "image"}),
    ],
    ids=["text", "vision", "text head", "image head", "text and image head"],  # sets are printed in any order
)
def test_an_adapter_changes_the_towers_that_it_has_tensors_for(
    options: dict[str, Any], expected: set[str], small_clip: Path, tmp_path: Path
) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", **options)
    before, after = fingerprints(model_of(small_clip)), fingerprints(model_of(small_clip, adapter=str(tuned)))
    assert changed_parts(before, after) == expected
    encoders = [open_encoder(model_of(small_clip, adapter=adapter)) for adapter in (None, str(tuned))]
    black = np.zeros((1, 224, 224, 3), np.uint8)
    vectors = {
        "backbone": [encoder.image_features(black) for encoder in encoders],
        "image": [encoder.project(encoder.image_features(black)) for encoder in encoders],
        "text": [our_texts(encoder, ["a cat"]) for encoder in encoders],
    }
    different = {part for part, pair in vectors.items() if not np.allclose(*pair, rtol=0, atol=1e-6)}
    assert different == expected


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_an_adapted_model_agrees_with_peft(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj", "v_proj", "fc1"])
    encoder = open_encoder(model_of(small_clip, adapter=str(tuned)))
    peft_model = PeftModel.from_pretrained(CLIPModel.from_pretrained(small_clip), tuned).eval()
    tokens = AutoTokenizer.from_pretrained(small_clip)(MIXED, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = pooled(peft_model.get_text_features(**tokens))
    np.testing.assert_allclose(our_texts(encoder, MIXED), expected, atol=1e-5)


def test_loading_a_tuned_model_leaves_its_base_unchanged(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj", "v_proj"])
    base = open_encoder(model_of(small_clip))
    before = our_texts(base, MIXED)
    after = our_texts(open_encoder(model_of(small_clip, adapter=str(tuned))), MIXED)
    np.testing.assert_allclose(our_texts(base, MIXED), before, atol=1e-6)
    np.testing.assert_allclose(our_texts(open_encoder(model_of(small_clip)), MIXED), before, atol=1e-6)
    assert np.abs(after - before).max() > 1e-4


@pytest.mark.parametrize("targets", [["q_proj"], ["visual_projection"]])
def test_an_adapter_without_effect_is_refused(targets: list[str], small_clip: Path, tmp_path: Path) -> None:
    adapter = build_lora(small_clip, tmp_path / "zero", targets=targets, value=0.0)
    with pytest.raises(ModelError, match=r"zero has no effect"):
        open_encoder(model_of(small_clip, adapter=str(adapter)))


def test_an_adapter_for_other_modules_is_refused(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    edit_json(tuned / "adapter_config.json", target_modules=["wonder_proj"])
    with pytest.raises(ModelError, match="does not fit"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


def test_an_adapter_whose_weights_have_other_names_is_refused(small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    tensors = load_file(tuned / "adapter_model.safetensors")
    save_file({name.replace("q_proj", "z_proj"): t for name, t in tensors.items()}, tuned / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"8 tensors that are not applied, .*z_proj\.lora_A"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


def test_an_adapter_of_a_wider_model_is_refused(small_clip: Path, tmp_path: Path) -> None:
    demo = Path(sys.modules["clipstore"].__file__).parent / "demo/model"
    tuned = build_lora(demo, tmp_path / "tuned", targets=["q_proj"])
    with pytest.raises(ModelError, match="does not fit"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_folder_without_a_file_is_refused(name: str, small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    (tuned / name).unlink()
    with pytest.raises(ModelError, match=name):
        describe(model_of(small_clip, adapter=str(tuned)), "fp32")
    with pytest.raises(ModelError, match=name):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("size", [0, 5, 100])
def test_a_truncated_adapter_file_is_refused(name: str, size: int, small_clip: Path, tmp_path: Path) -> None:
    tuned = build_lora(small_clip, tmp_path / "tuned", targets=["q_proj"])
    os.truncate(tuned / name, size)
    with pytest.raises(ModelError, match=r"tuned"):
        describe(model_of(small_clip, adapter=str(tuned)), "fp32")
    with pytest.raises(ModelError, match=r"tuned"):
        open_encoder(model_of(small_clip, adapter=str(tuned)))


# Model folders


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "safetensors"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("vocab.json", "vocab.json"),
        ("merges.txt", "merges.txt"),
    ],
)
def test_a_folder_without_a_file_is_refused(name: str, words: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=words):
        describe(model_of(folder), "fp32")


def test_weights_in_pickles_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for load in (partial(describe, precision="fp32"), load_clip):
        with pytest.raises(ModelError, match="safetensors"):
            load(model_of(folder))


@pytest.mark.parametrize("share", [0.0, 0.000001, 0.00001, 0.001, 0.5, 0.999])
def test_truncated_weights_are_refused(share: float, folder: Path) -> None:
    weights = folder / "model.safetensors"
    os.truncate(weights, int(weights.stat().st_size * share))
    with pytest.raises(ModelError, match=r"model\.safetensors is not a safetensors file, or is cut short"):
        describe(model_of(folder), "fp32")
    with pytest.raises(ModelError, match=str(folder)):
        open_encoder(model_of(folder))


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "vocab.json", "tokenizer_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufffd"], ids=repr)
def test_a_damaged_json_file_is_refused(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match=name):
        describe(model_of(folder), "fp32")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("vocab.json", "{}"),
        ("vocab.json", '{"a": 1}'),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
    ],
)
def test_an_invalid_tokenizer_is_refused(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ModelError, match="tokenizer"):
        open_encoder(model_of(folder))


@pytest.mark.parametrize("key", ["image_mean", "crop_size", "image_std", "size"])
def test_incomplete_preprocessing_is_refused(key: str, folder: Path) -> None:
    edit_preprocessor(folder, **{key: None})
    with pytest.raises(ModelError, match=r"preprocessor_config\.json"):
        describe(model_of(folder), "fp32")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_weight_index_is_refused(text: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()  # transformers prefers a single file to an index
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        describe(model_of(folder), "fp32")


def test_a_weight_index_with_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"logit_scale": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="safetensors"):
        describe(model_of(folder), "fp32")


def test_a_checkpoint_without_all_weights_is_refused(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights, text_projection\.weight"):
        open_encoder(model_of(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    edit_config(folder, projection_dim=16)
    with pytest.raises(ModelError, match="cannot load"):
        open_encoder(model_of(folder))


@pytest.mark.parametrize("base", ["/no/such/folder", "./nowhere", "just-a-word", "a/b/c", "bundled:demon"])
def test_an_unknown_base_is_refused_by_name(base: str) -> None:
    with pytest.raises(ModelError, match=base.removeprefix("bundled:")):
        describe(Model(name="m", family="clip", base=base), "fp32")


# The hub's cache. These run in a new process: huggingface_hub reads its environment when it is imported.

_DESCRIBE = """
import sys
from clipstore.encoders.fingerprint import describe
from clipstore.encoders.model_files import locate
from clipstore.errors import ImageError, ModelError
from clipstore.records import Model
try:
    print(locate(sys.argv[1]))
    print(describe(Model(name="m", family="clip", base=sys.argv[1]), "fp32")[0].fingerprint)
except ModelError as error:
    sys.exit(f"ModelError: {error}")
"""


def describe_in_process(base: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"HF_HOME": str(cache), "HF_HUB_CACHE": str(cache / "hub"), "HF_HUB_OFFLINE": "1"} | variables
    command = [sys.executable, "-c", _DESCRIBE, base]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=60
    )


def hub_cache(cache: Path, model: Path, *revisions: str, main: str) -> Path:
    """A hub cache with a model org/clip: blobs, and snapshots with links to them."""
    root = cache / "hub/models--org--clip"
    shutil.copytree(model, root / "blobs")
    for revision in revisions:
        (root / "snapshots" / revision).mkdir(parents=True)
        for file in (root / "blobs").iterdir():
            (root / "snapshots" / revision / file.name).symlink_to(f"../../blobs/{file.name}")
    (root / "refs").mkdir()
    (root / "refs/main").write_text(main)
    return root


def test_a_cached_hub_model_is_found_offline(small_clip: Path, tmp_path: Path) -> None:
    root = hub_cache(tmp_path, small_clip, "aaa", "bbb", main="bbb")
    completed = describe_in_process("org/clip", tmp_path)
    assert completed.stderr == ""
    assert completed.stdout.split() == [str(root / "snapshots/bbb"), fingerprints(model_of(small_clip))["image"]]


def test_a_complete_snapshot_is_preferred_to_an_incomplete_one(small_clip: Path, tmp_path: Path) -> None:
    root = hub_cache(tmp_path, small_clip, "aaa", "bbb", main="bbb")
    (root / "snapshots/bbb/model.safetensors").unlink()
    completed = describe_in_process("org/clip", tmp_path)
    assert completed.stdout.split()[0] == str(root / "snapshots/aaa")


def test_an_uncached_hub_model_is_named_offline(tmp_path: Path) -> None:
    completed = describe_in_process("org/other-clip", tmp_path)
    assert completed.returncode == 1
    assert completed.stderr.startswith("ModelError: no folder org/other-clip here")
    assert "hf download org/other-clip" in completed.stderr


def test_an_unreachable_hub_is_one_error(tmp_path: Path) -> None:
    unreachable = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}  # the discard port refuses at once
    completed = describe_in_process("org/other-clip", tmp_path, **unreachable)
    assert completed.stderr.startswith("ModelError: no folder org/other-clip here")
    assert "hf download org/other-clip" in completed.stderr
