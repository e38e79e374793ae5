"""Equal fingerprints mean equal vectors: each key of a configuration and each tokenizer file is changed in turn."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from click.testing import Result
from clip_folder import build_lora, edit_json
from peft import LoHaConfig, LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.fingerprint import base_digest, fingerprint_towers
from clipstore.encoders.images import decode_pixels
from clipstore.encoders.loading import load_model
from clipstore.encoders.model_files import tokenizer_files
from clipstore.encoders.random_clip import Sizes, write_random_clip
from clipstore.errors import ModelError
from clipstore.records import Model

TINY = Sizes(dim=16, text=(16, 2, 2), vision=(16, 2, 2), patch=16, pixels=32)
TEXTS = ["a red circle", "two blue squares  above THREE green stars", "zz, one of; the <|endoftext|> 7 hearts", "é 猫"]
PARTS = ("image", "backbone", "text")

Change = Callable[[Path], None]
Run = Callable[..., Result]


class ModelOutput(NamedTuple):
    """A model's fingerprints and vectors, by part."""

    fingerprints: dict[str, str | None]
    vectors: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP whose tokenizer is one tokenizer.json. Copy it before changing it."""
    folder = write_random_clip(tmp_path_factory.mktemp("tiny") / "clip", sizes=TINY)
    edit_json(folder / "preprocessor_config.json", size=32, crop_size=32)
    return folder


@pytest.fixture(scope="session")
def tiny_pairs(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with vocab.json, merges.txt and special_tokens_map.json instead of tokenizer.json."""
    folder = Path(shutil.copytree(tiny, tmp_path_factory.mktemp("pairs") / "clip"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"]))
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{pair}\n" for pair in merges), encoding="utf-8")
    end = "<|endoftext|>"
    tokens = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are fastest in one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(folder: Path, adapter: Path | None = None) -> Model:
    return Model(name="m", family="clip", base=str(folder), adapter=adapter and str(adapter))


def fingerprints(model: Model) -> dict[str, str | None]:
    image, text = fingerprint_towers(model, "fp32")
    return {"image": image.fingerprint, "backbone": image.backbone, "text": text.fingerprint}


def compute(model: Model) -> ModelOutput | None:
    """The fingerprints and vectors of a model, or None if it is refused with a ModelError."""
    try:
        prints = fingerprints(model)
        encoder = Encoder(load_model(model))
        features = encoder.image_features(
            np.stack([decode_pixels(data, encoder.preprocessing) for data in _image_files()])
        )
        texts = encoder.text_vectors(encoder.tokenize(TEXTS).ids)
    except ModelError:
        return None
    return ModelOutput(prints, {"backbone": features, "image": encoder.project(features), "text": texts})


def _image_files() -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    for width, height in ((45, 33), (32, 80)):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
        yield buffer.getvalue()


class Mutations:
    """Changes a folder in one way at a time, and checks vectors against fingerprints."""

    def __init__(self, folder: Path, work: Path, model: Callable[[Path], Model], *, thorough: bool = True) -> None:
        self._folder, self._copy, self._model, self._thorough = folder, work / "changed", model, thorough
        before = compute(model(folder))
        assert before is not None
        self._before = before
        self.counts: Counter[str] = Counter()

    def check(self, name: str, change: Change) -> None:
        """Parts with other vectors must have other fingerprints, or the model must be refused.

        If all fingerprints differ, only a thorough test loads the model.
        """
        copy = self._copy
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder, copy)
        change(copy)
        if not self._thorough and self._all_differ(copy):
            self.counts["other fingerprints, not loaded"] += 1
            return
        after = compute(self._model(copy))
        if after is None:
            self.counts["refused"] += 1
            return
        vectors = [part for part in PARTS if not _equal(self._before.vectors[part], after.vectors[part])]
        prints = [part for part in PARTS if self._before.fingerprints[part] != after.fingerprints[part]]
        assert set(vectors) <= set(prints), f"{name}: other vectors of {vectors}, other fingerprints of {prints}"
        self.counts["other vectors" if vectors else "other fingerprints only" if prints else "no change"] += 1

    def _all_differ(self, copy: Path) -> bool:
        try:
            after = fingerprints(self._model(copy))
        except ModelError:
            return False
        return all(self._before.fingerprints[part] != after[part] for part in PARTS)

    def keys(self, file: str, *within: str, more: dict[str, Any] | None = None) -> None:
        """Change each key of a JSON file, or of a table in it, and add those of `more`; thorough: to several values."""
        table, more = _table(json.loads((self._folder / file).read_text()), within), more or {}
        for key in table | more:
            values = [more[key]] if more.get(key) is not None else _other_values(table.get(key))
            if self._thorough:
                values = [*values, *_other_values(table.get(key)), None, ...]
            for value in values if self._thorough else values[:1]:
                self.check(f"{file} {'.'.join([*within, key])} = {value!r}", _edit(file, within, key, value))
            self.counts["keys"] += 1

    def report(self, words: str) -> None:
        print(f"{words}: {dict(self.counts)}")  # pytest -rP shows it


def _table(content: dict[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
    for name in within:
        content = content[name]
    return content


def _edit(file: str, within: tuple[str, ...], key: str, value: object) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        table = _table(content, within)
        if value is ...:
            table.pop(key, None)
        else:
            table[key] = value
        (folder / file).write_text(json.dumps(content))

    return change


def _other_values(value: Any) -> list[Any]:
    """Other values of a key that a library may accept."""
    match value:
        case "quick_gelu":
            return ["gelu", "relu"]
        case bool():
            return [not value]
        case int() | float():
            return [2 * value, value // 2, value + 1]
        case str():
            return [f"{value}x"]
        case [first, *rest]:
            return [[first], [*rest, first]]
        case _:
            return [{}, 1, True]


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and np.array_equal(first, second)


# Keys that the small model's configuration does not have and that transformers reads.
MORE = {
    "text_config_dict": {"hidden_act": "relu", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2},
    "vision_config_dict": {"hidden_act": "relu", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2},
    "tokenizer_class": "BertTokenizer",
    "transformers_weights": "other.safetensors",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "attn_implementation": "eager",
    "fusion_config": {},
    "torch_dtype": "float16",
    "tie_word_embeddings": True,
    "return_dict": False,
}


SHORT = pytest.param(False, id="short")
THOROUGH = pytest.param(True, id="thorough", marks=pytest.mark.full)


@pytest.mark.parametrize("thorough", [SHORT, THOROUGH])
def test_each_key_of_a_configuration(thorough: bool, tiny: Path, tmp_path: Path) -> None:
    tensors = load_file(tiny / "model.safetensors")
    folder = Path(shutil.copytree(tiny, tmp_path / "clip"))
    save_file({name: weight * 1.5 for name, weight in tensors.items()}, folder / "other.safetensors")
    mutations = Mutations(folder, tmp_path, model_of, thorough=thorough)
    mutations.keys("config.json", more=MORE)
    for tower, known in (("text", CLIPTextConfig()), ("vision", CLIPVisionConfig())):
        extra = {"dtype": "float16", "torch_dtype": "bfloat16", "_attn_implementation": "eager", "id2label": {"0": "a"}}
        mutations.keys("config.json", f"{tower}_config", more=dict.fromkeys(known.to_dict()) | extra)
    mutations.report("config.json")
    assert mutations.counts["keys"] > 60
    assert mutations.counts["other vectors"] >= (15 if thorough else 4)


@pytest.mark.parametrize("thorough", [SHORT, THOROUGH])
def test_each_key_of_a_preprocessing(thorough: bool, tiny: Path, tmp_path: Path) -> None:
    mutations = Mutations(tiny, tmp_path, model_of, thorough=thorough)
    more = {"rescale_factor": 0.5, "do_rescale": False, "do_convert_rgb": False, "do_pad": True}
    mutations.keys("preprocessor_config.json", more=more)
    for size in ({"shortest_edge": 40}, {"height": 32, "width": 32}, {"height": 50, "width": 40}, 64):
        mutations.check(f"size {size}", _edit("preprocessor_config.json", (), "size", size))
    changed = json.loads((tiny / "preprocessor_config.json").read_text()) | {"resample": 0}
    for name, content in (("nested", {"image_processor": changed}), ("unused", changed)):
        mutations.check(name, lambda folder, content=content: _write(folder / "processor_config.json", content))
    mutations.report("preprocessor_config.json")
    assert mutations.counts["other vectors"] > 8


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content))


def test_each_tokenizer_file(tiny: Path, tiny_pairs: Path, tmp_path: Path) -> None:
    files: set[str] = set()
    for folder in (tiny, tiny_pairs):
        mutations = Mutations(folder, tmp_path, model_of, thorough=False)
        more = {"add_prefix_space": True, "do_lower_case": False, "unk_token": "a"}
        mutations.keys("tokenizer_config.json", more=more)
        for file in [*tokenizer_files(folder), folder / "added_tokens.json", folder / "special_tokens_map.json"]:
            for number, change in enumerate(_token_changes(file.name)):
                mutations.check(f"{file.name} {number}", change)
                files.add(file.name)
        mutations.report(f"tokenizer files {[file.name for file in tokenizer_files(folder)]}")
        assert mutations.counts["other vectors"] >= 4
    print(f"kinds of tokenizer files: {sorted(files)}")
    assert len(files) == 6


def _token_changes(name: str) -> Iterator[Change]:
    """Changes to a tokenizer file, or new files of that name."""
    if name == "added_tokens.json":
        yield lambda folder: _write(folder / name, {"circle": 300, "blue": 301})
    elif name == "special_tokens_map.json":
        yield lambda folder: _write(folder / name, {"additional_special_tokens": ["red"]})
        yield lambda folder: _write(folder / name, {"eos_token": "a</w>"})
    elif name == "merges.txt":
        yield lambda folder: (folder / name).write_text("\n".join((folder / name).read_text().splitlines()[:40]))
    elif name == "vocab.json":
        yield lambda folder: _write(folder / name, _swap_ids(json.loads((folder / name).read_text())))
    elif name == "tokenizer.json":
        for key in ("normalizer", "pre_tokenizer", "post_processor"):
            yield _edit(name, (), key, None)
        yield lambda folder: _write(folder / name, _swap_tokenizer(json.loads((folder / name).read_text())))
    elif name == "tokenizer_config.json":
        yield lambda folder: (folder / name).unlink()


def _swap_ids(vocabulary: dict[str, int]) -> dict[str, int]:
    """Swap the ids of two words and of all single characters, some of which are in TEXTS."""
    words = [token for token in vocabulary if token.endswith("</w>") and len(token) > 6][:2]
    characters = [token for token in vocabulary if len(token.removesuffix("</w>")) == 1]
    pairs = [(words[0], words[1]), *zip(characters[::2], characters[1::2], strict=False)]
    ids = {token: vocabulary[partner] for pair in pairs for token, partner in (pair, pair[::-1])}
    return vocabulary | ids


def _swap_tokenizer(tokenizer: dict[str, Any]) -> dict[str, Any]:
    tokenizer["model"]["vocab"] = _swap_ids(tokenizer["model"]["vocab"])
    return tokenizer


def build_loha(base: Path, folder: Path) -> Path:
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoHaConfig(r=2, alpha=4, target_modules=["q_proj", "v_proj"], init_weights=False)
        get_peft_model(CLIPModel.from_pretrained(base), config).save_pretrained(folder)
    return folder


full = pytest.mark.full


@pytest.mark.parametrize(
    ("kind", "thorough"),
    [
        ("lora", False),
        pytest.param("loha", False),
        pytest.param("lora", True, marks=full),
        pytest.param("dora", True, marks=full),
        pytest.param("loha", True, marks=full),
    ],
)
def test_each_key_of_an_adapter(kind: str, thorough: bool, tiny: Path, tmp_path: Path) -> None:
    if kind == "loha":
        adapter = build_loha(tiny, tmp_path / "adapter")
    else:
        adapter = build_lora(tiny, tmp_path / "adapter", targets=["q_proj", "v_proj"], use_dora=kind == "dora")
    mutations = Mutations(adapter, tmp_path, lambda folder: model_of(tiny, folder), thorough=thorough)
    known = {field.name for field in dataclasses.fields(LoHaConfig if kind == "loha" else LoraConfig)}
    more: dict[str, Any] = {
        "target_modules": ["q_proj"],
        "exclude_modules": ["v_proj"],
        "layers_to_transform": [0],
        "rank_pattern": {"q_proj": 4},
        "alpha_pattern": {"q_proj": 64},
        "peft_type": "LOHA" if kind == "lora" else "LORA",
        "task_type": "FEATURE_EXTRACTION",
    }
    if kind == "lora":
        more |= {"init_lora_weights": "pissa", "bias": "all"}
    mutations.keys("adapter_config.json", more=dict.fromkeys(known) | more)
    mutations.report(f"adapter_config.json of a {kind}")
    assert mutations.counts["keys"] >= 20
    assert not thorough or mutations.counts["other vectors"] >= 5


# Changes that must not change a fingerprint.


def resave(folder: Path, **options: Any) -> None:
    CLIPModel.from_pretrained(folder).save_pretrained(folder, **options)


def shard(folder: Path) -> None:
    resave(folder, max_shard_size="1MB")
    (folder / "model.safetensors").unlink()


def leave_index(folder: Path) -> None:
    """Save in several files and then in one: transformers leaves the index, and reads the single file."""
    shard(folder)
    resave(folder)
    assert (folder / "model.safetensors.index.json").is_file()


def add_position_ids(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    ids = {"text_model": 77, "vision_model": 5}
    tensors |= {f"{tower}.embeddings.position_ids": torch.arange(count)[None] for tower, count in ids.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add_old_defaults(folder: Path) -> None:
    """Add keys that transformers 4 wrote and that have no effect."""
    generation = {
        "_name_or_path": "",
        "bad_words_ids": None,
        "max_length": 20,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    }
    config = json.loads((folder / "config.json").read_text())
    towers = {f"{name}_config": config[f"{name}_config"] | generation for name in ("text", "vision")}
    edit_json(folder / "config.json", _commit_hash=None, text_config_dict=None, vision_config_dict=None, **towers)


def rename(folder: Path) -> None:
    names = {"_name_or_path": "x/y", "transformers_version": "4.1", "torch_dtype": "float16", "architectures": ["C"]}
    config = json.loads((folder / "config.json").read_text())
    towers = {f"{name}_config": config[f"{name}_config"] | names for name in ("text", "vision")}
    edit_json(folder / "config.json", **names, **towers)


def reverse_keys(folder: Path) -> None:
    for file in (folder / "config.json", folder / "preprocessor_config.json"):
        content = json.loads(file.read_text())
        file.write_text(json.dumps(dict(reversed(content.items())), indent=4))


def touch(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, (1, 1))


def add_files(folder: Path) -> None:
    for name in ("README.md", "chat_template.jinja", "generation_config.json", "training_args.bin", "results.json"):
        (folder / name).write_text("{}")


UNCHANGED = [resave, shard, leave_index, add_position_ids, add_old_defaults, rename, reverse_keys, touch, add_files]


@pytest.mark.parametrize("change", UNCHANGED)
def test_a_change_without_effect_changes_no_fingerprint(change: Change, tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "moved"))
    change(copy)
    before, after = compute(model_of(tiny)), compute(model_of(copy))
    assert before is not None
    assert after is not None
    assert before.fingerprints == after.fingerprints
    assert base_digest(str(tiny)) == base_digest(str(copy))
    for part in PARTS:
        np.testing.assert_array_equal(before.vectors[part], after.vectors[part])


def test_a_change_of_an_adapter_without_effect_changes_no_fingerprint(tiny: Path, tmp_path: Path) -> None:
    adapter = build_lora(tiny, tmp_path / "adapter", targets=["q_proj", "v_proj"])
    before = fingerprints(model_of(tiny, adapter))
    changes = {
        "base_model_name_or_path": "elsewhere/clip", "revision": "main", "peft_version": "0.1", "inference_mode": False,
        "auto_mapping": {"base_model_class": "X"}, "target_modules": ["v_proj", "q_proj"],
    }  # fmt: skip
    edit_json(adapter / "adapter_config.json", **changes)
    (adapter / "README.md").write_text("a model card")
    assert fingerprints(model_of(tiny, adapter)) == before


def test_every_tokenizer_file_of_transformers_is_known(tmp_path: Path) -> None:
    sources = Path(transformers.__file__).parent
    files = [*sources.glob("models/*/tokenization_*.py"), sources / "tokenization_utils_base.py"]
    names: set[str] = set()
    for file in files:
        for table in re.findall(r"VOCAB_FILES_NAMES[^=]*=\s*({.*?})", file.read_text(encoding="utf-8"), re.DOTALL):
            names |= set(re.findall(r':\s*"([^"]+)"', table))
    assert len(names) > 20
    for name in names | {"added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"}:
        (tmp_path / name).write_text("")
    (tmp_path / "chat_template.jinja").write_text("")
    assert {file.name for file in tokenizer_files(tmp_path)} == {file.name for file in tmp_path.glob("*.*")} - {
        "chat_template.jinja"
    }


def test_the_fingerprint_is_of_the_weights_that_are_loaded_despite_a_stale_index(tiny: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "clip"))
    leave_index(copy)
    CLIPModel.from_pretrained(tiny).save_pretrained(copy, max_shard_size="1MB")
    tensors = load_file(tiny / "model.safetensors")
    other = {name: weight * 1.5 for name, weight in tensors.items()}
    save_file(other, copy / "model.safetensors", metadata={"format": "pt"})
    before, after = compute(model_of(tiny)), compute(model_of(copy))
    assert before is not None
    assert after is not None
    assert not set(before.fingerprints.values()) & set(after.fingerprints.values())
    assert not np.array_equal(before.vectors["image"], after.vectors["image"])


# Adapters of other programs.


def build_text_lora(base: Path, folder: Path, **changes: Any) -> Path:
    """A LoRA on the linear modules of a CLIPTextModelWithProjection, as PEFT saves it."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        tuned = get_peft_model(CLIPTextModelWithProjection.from_pretrained(base), config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.05)
    tuned.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", **changes)
    return folder


def test_an_adapter_of_the_text_tower_does_not_change_image_vectors(tiny: Path, tmp_path: Path) -> None:
    base = compute(model_of(tiny))
    tuned = compute(model_of(tiny, build_text_lora(tiny, tmp_path / "adapter")))
    assert base is not None
    assert tuned is not None
    assert {part for part in PARTS if base.fingerprints[part] != tuned.fingerprints[part]} == {"text"}
    assert np.array_equal(base.vectors["image"], tuned.vectors["image"])
    assert not np.array_equal(base.vectors["text"], tuned.vectors["text"])


def test_an_adapter_that_changes_a_tower_without_tensors_is_refused(tiny: Path, tmp_path: Path) -> None:
    adapter = build_text_lora(tiny, tmp_path / "adapter", init_lora_weights=False)
    with pytest.raises(ModelError, match=r"no tensors for the image tower.* narrow target_modules"):
        load_model(model_of(tiny, adapter))


@pytest.mark.parametrize("change", [{"target_modules": ["q_proj"]}, {"exclude_modules": ["v_proj"]}], ids=str)
def test_tensors_that_are_not_applied_are_named(change: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    adapter = build_lora(tiny, tmp_path / "adapter", targets=["q_proj", "v_proj"])
    before = fingerprints(model_of(tiny, adapter))
    edit_json(adapter / "adapter_config.json", **change)
    assert not set(before.values()) & set(fingerprints(model_of(tiny, adapter)).values())
    with pytest.raises(ModelError, match=r"8 tensors that are not applied, .*layers\.0\.self_attn\.v_proj\.lora_A"):
        load_model(model_of(tiny, adapter))


def test_an_adapter_of_another_base_is_added_with_a_warning(tiny: Path, tmp_path: Path, cli: Run) -> None:
    adapter = build_lora(tiny, tmp_path / "adapter", targets=["q_proj"])
    assert cli("model", "add", "own", "--base", tiny, "--adapter", adapter).stderr == ""
    copy = shutil.copytree(tiny, tmp_path / "copy")
    assert cli("model", "add", "copied", "--base", copy, "--adapter", adapter).stderr == ""
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    tensors = {name: weight * 1.5 for name, weight in load_file(tiny / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    stderr = cli("model", "add", "other", "--base", other, "--adapter", adapter).stderr
    assert stderr.startswith("clipstore: warning: ")
    assert f"names the base {tiny}, whose weights differ from those of {other}" in stderr
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="org/no-such-clip")
    stderr = cli("model", "add", "far", "--base", tiny, "--adapter", adapter).stderr
    assert "org/no-such-clip, which is not available locally" in stderr


def test_embed_warns_of_an_adapter_of_another_base(
    tiny: Path,
    tmp_path: Path,
    scenes: Path,
    cli: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A log line, which Python prints on stderr; once, though both towers are embedded."""
    adapter = build_lora(tiny, tmp_path / "adapter", targets=["q_proj"])
    other = Path(shutil.copytree(tiny, tmp_path / "other"))
    tensors = {name: weight * 1.5 for name, weight in load_file(tiny / "model.safetensors").items()}
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "jobs").mkdir()
    for name, base in (("own", tiny), ("other", other)):
        (tmp_path / f"jobs/{name}.toml").write_text(f'[model]\nbase = "{base}"\nadapter = "{adapter}"\n')
    monkeypatch.chdir(tmp_path)
    cli("ingest", "coco", scenes)
    cli("embed", "--model", "own", "--model", "other", "--split", "coco/val", "--memory", "1MB")
    warning = f"other: the adapter {adapter} names the base {tiny}, whose weights differ from those of {other}"
    assert caplog.messages == [f"clipstore: warning: {warning}"]
    caplog.clear()
    cli("embed", "--model", "other", "--split", "coco/val")  # nothing is left to do
    assert caplog.messages == []


# Refusals of `model add`.


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "siglip"}, "is a SigLIP model without its text and vision tower"),
        ({"model_type": "blip-2"}, "is a model of the type blip-2"),
        ({"model_type": "clip_vision_model"}, "is the vision tower of a CLIP alone"),
        ({"model_type": "chinese_clip"}, "is a model of the type chinese_clip"),
        ({"model_type": "clip", "vision_config": {}}, "is a CLIP model without its text tower"),
    ],
    ids=str,
)
def test_other_models_are_refused_by_name(config: dict[str, Any], words: str, tmp_path: Path, cli: Run) -> None:
    (tmp_path / "model").mkdir()
    _write(tmp_path / "model/config.json", config)
    assert words in cli("model", "add", "m", "--base", tmp_path / "model", code=1).stderr


def test_an_adapter_in_the_folder_of_a_base_is_refused(tiny: Path, tmp_path: Path, cli: Run) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "clip"))
    build_lora(tiny, copy, targets=["q_proj"])
    assert "contains both weights and a PEFT adapter" in cli("model", "add", "m", "--base", copy, code=1).stderr


def test_pixels_of_another_size_are_refused(tiny: Path, tmp_path: Path, cli: Run) -> None:
    copy = Path(shutil.copytree(tiny, tmp_path / "clip"))
    edit_json(copy / "preprocessor_config.json", size=48, crop_size=48)
    stderr = cli("model", "add", "m", "--base", copy, code=1).stderr
    assert "produces images of 48 x 48 pixels, but the model expects 32 x 32" in stderr
    with pytest.raises(ModelError, match="48 x 48"):
        fingerprint_towers(model_of(copy), "fp32")
