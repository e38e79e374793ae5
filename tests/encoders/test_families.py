"""Vectors of every family equal those of the published recipe in transformers, and a wrong recipe is noticed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_helpers import LONG, edit_preprocessor, edit_tower, our_images, our_texts, unit
from family_folders import FULL, SMALL
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st
from open_clip_oracle import open_clip_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BlipForImageTextRetrieval,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipImageProcessorPil,
    SiglipModel,
)

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.families import FAMILIES, recognise
from clipstore.encoders.fingerprint import fingerprint_towers
from clipstore.encoders.loading import load_model
from clipstore.errors import ModelError
from clipstore.records import FAMILIES as NAMES
from clipstore.records import Model

TEXTS = [
    "cat",
    "Two DOGS beside a Red Bicycle, seen from above.",
    "a man rides a horse",
    "a man rides a wave",
    "a man",
    LONG,
    "[SEP] in <eos> brackets",
]
SIZES = [(64, 48), (31, 90), (20, 20), (200, 33), (48, 64)]  # of images, width and height
CLOSE = 0.99999


def model_of(folder: Path, **options: Any) -> Model:
    return Model(name="m", family=recognise(folder, str(folder)).name, base=str(folder), **options)


def open_encoder(folder: Path, **options: Any) -> Encoder:
    return Encoder(load_model(model_of(folder)), **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: write(root / name) for name, write in SMALL.items()}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root, generator, files = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number, (width, height) in enumerate(SIZES):
        coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(root / f"{number}.png")
        files.append(root / f"{number}.png")
    return files


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.asarray((unit(ours) * unit(theirs)).sum(axis=1))


# The published recipes, by transformers' own processors and forward passes.


def recipe_texts(name: str, folder: Path, texts: list[str], **wrong: Any) -> np.ndarray:
    """Text vectors; `wrong` changes the recipe: lower, side, length, mask, pooled (a position), model."""
    with torch.inference_mode():
        if name == "blip":
            return _blip_texts(folder, texts, **wrong)
        if name == "clip":
            batch = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="pt")
            return CLIPModel.from_pretrained(folder).get_text_features(**batch).pooler_output.numpy()
        lower = wrong.get("lower", name in ("siglip", "siglip2", "naflex"))
        texts = [text.lower() if lower else text for text in texts]
        model = wrong.get("model") or (Siglip2Model if name == "naflex" else SiglipModel).from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=wrong.get("side", "right"))
        options = {"split_special_tokens": True, "return_tensors": "pt"}
        length = wrong.get("length", 64)
        padding = {"padding": "max_length", "max_length": length} if length else {"padding": True, "max_length": 64}
        batch = tokenizer(texts, truncation=True, **padding, **options)
        mask = (batch["input_ids"] != tokenizer.pad_token_id).long() if wrong.get("mask") else None
        output = model.text_model(input_ids=batch["input_ids"], attention_mask=mask)
        if "pooled" in wrong:
            return model.text_model.head(output.last_hidden_state[:, wrong["pooled"]]).numpy()
        return output.pooler_output.numpy()


def _blip_texts(folder: Path, texts: list[str], *, first: str | None = None, mask: bool = True, **_: Any) -> np.ndarray:
    model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(
        texts, padding="max_length", max_length=35, truncation=True, split_special_tokens=True, return_tensors="pt"
    )
    if first:
        batch["input_ids"][:, 0] = model.config.text_config.bos_token_id + ["[DEC]", "[ENC]"].index(first)
    attention = batch["attention_mask"] if mask else None
    states = model.text_encoder(input_ids=batch["input_ids"], attention_mask=attention).last_hidden_state
    return model.text_proj(states[:, 0]).numpy()


def recipe_images(name: str, folder: Path, files: list[Path], **wrong: Any) -> np.ndarray:
    """Image vectors; `wrong` changes the recipe: pooled, model."""
    opened = [Image.open(file).convert("RGB") for file in files]
    with torch.inference_mode():
        if name == "blip":
            model = BlipForImageTextRetrieval.from_pretrained(folder).eval()
            values = BlipImageProcessorPil.from_pretrained(folder)(opened, return_tensors="pt")["pixel_values"]
            output = model.vision_model(values)
            state = output.pooler_output if wrong.get("pooled") else output.last_hidden_state[:, 0]
            return model.vision_proj(state).numpy()
        if name == "clip":
            values = CLIPImageProcessorPil.from_pretrained(folder)(opened, return_tensors="pt")
            return CLIPModel.from_pretrained(folder).get_image_features(**values).pooler_output.numpy()
        if name == "naflex":
            inputs = Siglip2ImageProcessorPil.from_pretrained(folder)(opened, return_tensors="pt")
            return Siglip2Model.from_pretrained(folder).get_image_features(**inputs).pooler_output.numpy()
        model = wrong.get("model") or SiglipModel.from_pretrained(folder)
        values = SiglipImageProcessorPil.from_pretrained(folder)(opened, return_tensors="pt")["pixel_values"]
        output = model.vision_model(values)
        return (output.last_hidden_state.mean(1) if wrong.get("pooled") else output.pooler_output).numpy()


RECIPES = ["siglip", "siglip2", "naflex", "blip"]


@pytest.mark.parametrize("name", RECIPES)
def test_vectors_equal_those_of_the_recipe(name: str, folders: dict[str, Path], images: list[Path]) -> None:
    encoder = open_encoder(folders[name])
    assert cosines(our_texts(encoder, TEXTS), recipe_texts(name, folders[name], TEXTS)).min() > CLOSE
    assert cosines(our_images(encoder, images), recipe_images(name, folders[name], images)).min() > CLOSE


@pytest.mark.full
@pytest.mark.parametrize("name", FULL)
def test_vectors_of_models_in_full_size_equal_those_of_the_recipe(
    name: str, images: list[Path], tmp_path: Path
) -> None:
    folder, texts, files = FULL[name](tmp_path / "model"), TEXTS[:6], images[:2]
    expected = recipe_texts(name, folder, texts), recipe_images(name, folder, files)
    for precision, close in (("fp32", CLOSE), ("bf16", 0.999)):
        encoder = open_encoder(folder, precision=precision)
        assert cosines(our_texts(encoder, texts), expected[0]).min() > close
        assert cosines(our_images(encoder, files), expected[1]).min() > close


@pytest.mark.parametrize("name", SMALL)
def test_bf16_is_close_to_fp32(name: str, folders: dict[str, Path], images: list[Path]) -> None:
    exact, rounded = (open_encoder(folders[name], precision=precision) for precision in ("fp32", "bf16"))
    assert cosines(our_texts(exact, TEXTS), our_texts(rounded, TEXTS)).min() > 0.999
    assert cosines(our_images(exact, images), our_images(rounded, images)).min() > 0.999


@pytest.mark.parametrize("name", SMALL)
@given(data=st.data())
@examples(6)
def test_a_vector_does_not_depend_on_its_batch(
    name: str, folders: dict[str, Path], images: list[Path], data: st.DataObject
) -> None:
    encoder = _cached_encoder(folders[name])
    texts = data.draw(st.lists(st.sampled_from(TEXTS) | st.text(min_size=1, max_size=30), min_size=1, max_size=12))
    files = data.draw(st.lists(st.sampled_from(images), min_size=1, max_size=5))
    ids = encoder.tokenize(texts).ids
    together = np.concatenate(
        [encoder.text_vectors([ids[n] for n in batch]) for batch in encoder.text_batches(ids, 256)]
    )
    order = [number for batch in encoder.text_batches(ids, 256) for number in batch]
    assert sorted(order) == list(range(len(texts)))
    alone = np.concatenate([encoder.text_vectors([ids[number]]) for number in order])
    assert cosines(together, alone).min() > CLOSE
    single = np.concatenate([our_images(encoder, [file]) for file in files])
    assert cosines(our_images(encoder, files), single).min() > CLOSE


_encoders: dict[Path, Encoder] = {}


def _cached_encoder(folder: Path) -> Encoder:
    return _encoders.setdefault(folder, open_encoder(folder))


# A wrong recipe gives other vectors, so that the tests above would fail.


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("siglip2", {"lower": False}),  # those of siglip and naflex are lowered by their tokenizers too
        *((name, {"side": "left"}) for name in ("siglip", "siglip2", "naflex")),
        *((name, {"length": None}) for name in ("siglip", "siglip2", "naflex")),  # padding to the longest
        ("siglip", {"length": 32}),
        ("siglip", {"mask": True}),
        ("siglip", {"pooled": 0}),
        ("blip", {"first": "[ENC]"}),  # as the matching head reads texts
        ("blip", {"first": "[DEC]"}),
        ("blip", {"mask": False}),
    ],
    ids=str,
)
def test_a_wrong_recipe_of_texts_is_noticed(name: str, wrong: dict[str, Any], folders: dict[str, Path]) -> None:
    texts = TEXTS[:4]  # shorter than the padding
    right = recipe_texts(name, folders[name], texts)
    assert cosines(right, recipe_texts(name, folders[name], texts, **wrong)).min() < 0.999


@pytest.mark.parametrize("name", ["siglip", "blip"])
def test_a_wrong_pooling_of_images_is_noticed(name: str, folders: dict[str, Path], images: list[Path]) -> None:
    right = recipe_images(name, folders[name], images)
    assert cosines(right, recipe_images(name, folders[name], images, pooled=True)).min() < 0.9999


@pytest.mark.parametrize("name", ["openclip", "siglip", "naflex", "blip"])
def test_the_activation_is_that_of_the_configuration(
    name: str, folders: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders[name], tmp_path / name))
    if name == "openclip":
        file = copy / "open_clip_config.json"
        settings = json.loads(file.read_text())
        settings["model_cfg"]["quick_gelu"] = True
        file.write_text(json.dumps(settings))
    else:
        for tower in ("text", "vision"):
            edit_tower(copy, tower, hidden_act="relu")
    before, after = open_encoder(folders[name]), open_encoder(copy)
    assert cosines(our_texts(before, TEXTS), our_texts(after, TEXTS)).min() < 0.99999
    assert cosines(our_images(before, images), our_images(after, images)).min() < 0.99999
    first, second = (fingerprint_towers(model_of(folder), "fp32") for folder in (folders[name], copy))
    assert [tower.fingerprint for tower in first] != [tower.fingerprint for tower in second]


def test_texts_of_a_tower_that_is_not_causal_share_nothing(folders: dict[str, Path]) -> None:
    """With the packing of CLIP, "a man" and "a man rides a horse" would share states, which look at what follows."""
    for name in RECIPES:
        encoder = open_encoder(folders[name])
        ids = encoder.tokenize(["a man", "a man rides a horse", "a man rides a wave"]).ids
        together = encoder.text_vectors(ids)
        assert cosines(together, np.concatenate([encoder.text_vectors([row]) for row in ids])).min() > CLOSE
        states = encoder._model.text_encoder if name == "blip" else encoder._model.text_model
        with torch.inference_mode():
            long = states(input_ids=torch.tensor([ids[1]])).last_hidden_state[:, : len(ids[0]) - 1]
            short = states(input_ids=torch.tensor([ids[0]])).last_hidden_state[:, : len(ids[0]) - 1]
        assert cosines(long[0].numpy(), short[0].numpy()).min() < 0.9999  # a shared prefix has other states


# OpenCLIP, by its own code.


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_a_converted_openclip_equals_its_own_forward(
    quick_gelu: bool, tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SMALL["openclip"](tmp_path / "model", quick_gelu=quick_gelu)  # type: ignore[call-arg]
    theirs, encoder = open_clip_model(folder, monkeypatch), open_encoder(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(TEXTS[:6], truncation=True, max_length=77)["input_ids"]
    padded = torch.zeros(len(tokens), 77, dtype=torch.long)
    for row, ids in zip(padded, tokens, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 224}, crop_size=224, image_mean=[0.48, 0.46, 0.41], image_std=[0.27, 0.26, 0.28]
    )
    values = processor([Image.open(file).convert("RGB") for file in images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        texts, pictures = theirs.encode_text(padded).numpy(), theirs.encode_image(values).numpy()
    assert 1 - cosines(our_texts(encoder, TEXTS[:6]), texts).min() < 1e-5
    assert 1 - cosines(our_images(encoder, images), pictures).min() < 1e-5


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("vision_cfg", "timm_model_name", "vit_base"),
        ("vision_cfg", "layers", [3, 4, 6, 3]),
        ("vision_cfg", "pool_type", "avg"),
        ("vision_cfg", "ls_init_value", 1e-4),
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "some_new_key", 3),
        (None, "multimodal_cfg", {"width": 8}),
    ],
)
def test_other_architectures_of_openclip_are_refused_by_name(
    table: str | None, key: str, value: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders["openclip"], tmp_path / "model"))
    settings = json.loads((copy / "open_clip_config.json").read_text())
    (settings["model_cfg"][table] if table else settings["model_cfg"])[key] = value
    (copy / "open_clip_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=f"{key} = .*vision transformers with the built-in text tower"):
        fingerprint_towers(model_of(copy), "fp32")


# What does not fit is refused.


def test_the_names_of_families_are_those_of_jobs() -> None:
    assert tuple(dict.fromkeys(family.name for family in FAMILIES)) == NAMES


@pytest.mark.parametrize("name", SMALL)
def test_a_family_that_does_not_fit_names_the_right_one(name: str, folders: dict[str, Path]) -> None:
    right = model_of(folders[name]).family
    for other in set(NAMES) - {right}:
        model = Model(name="m", family=other, base=str(folders[name]))
        with pytest.raises(ModelError, match=f"set the family '{right}'"):
            fingerprint_towers(model, "fp32")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("siglip2", {"padding_side": "left"}, "padding on the left"),
        ("naflex", {"padding_side": "left"}, "padding on the left"),
        ("blip", {"padding_side": "left"}, "padding on the left"),
        ("siglip2", {"pad_token": None}, "no padding token"),
        ("siglip2", {"pad_token": "<other>"}, "no padding token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    name: str, change: dict[str, Any], words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folders[name], tmp_path / "model"))
    file = copy / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ModelError, match=words):
        load_model(model_of(copy))


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_without_a_tokenizer_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders[name], tmp_path / "model"))
    for file in [*copy.glob("tokenizer*"), *copy.glob("*vocab*"), *copy.glob("*.model"), *copy.glob("merges*")]:
        file.unlink()
    with pytest.raises(ModelError, match=r"no (tokenizer\.json|spiece)"):
        fingerprint_towers(model_of(copy), "fp32")


def test_towers_of_different_width_are_refused(tmp_path: Path) -> None:
    folder = SMALL["siglip"](tmp_path / "model")
    edit_tower(folder, "text", projection_size=16)
    with pytest.raises(ModelError, match=r"width 32 .* width 16"):
        fingerprint_towers(model_of(folder), "fp32")


@pytest.mark.parametrize("name", ["siglip", "naflex", "blip"])
def test_code_of_a_checkpoint_is_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders[name], tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "code.Model"}}))
    with pytest.raises(ModelError, match="does not run"):
        fingerprint_towers(model_of(copy), "fp32")


def test_preprocessing_that_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    changes: dict[str, Callable[[Path], None]] = {
        "48 x 48 pixels": lambda copy: edit_preprocessor(copy, size={"height": 48, "width": 48}),
        "squashed to a square": lambda copy: edit_preprocessor(
            copy, size={"shortest_edge": 32}, crop_size=32, do_center_crop=True
        ),
    }
    for number, (words, change) in enumerate(changes.items()):
        copy = Path(shutil.copytree(folders["siglip"], tmp_path / str(number)))
        change(copy)
        with pytest.raises(ModelError, match=words):
            fingerprint_towers(model_of(copy), "fp32")
    copy = Path(shutil.copytree(folders["naflex"], tmp_path / "naflex"))
    edit_preprocessor(copy, patch_size=16)
    with pytest.raises(ModelError, match="patches of 16 pixels, but the model expects 8"):
        fingerprint_towers(model_of(copy), "fp32")


@pytest.mark.parametrize("name", SMALL)
def test_weights_that_are_missing_or_unknown_are_refused(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    file = "open_clip_model.safetensors" if name == "openclip" else "model.safetensors"
    tensors = load_file(folders[name] / file)
    for number, dropped in enumerate(sorted(tensors)[:: max(1, len(tensors) // 12)]):
        if "logit" in dropped:
            continue
        copy = Path(shutil.copytree(folders[name], tmp_path / str(number)))
        save_file({key: value for key, value in tensors.items() if key != dropped}, copy / file)
        with pytest.raises(ModelError, match="lacks"):
            load_model(model_of(copy))
