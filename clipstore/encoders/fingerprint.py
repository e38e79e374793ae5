"""Fingerprints: the SHA-256 of everything that decides a tower's output, computed from a model's files without torch.

Inputs are chosen by exclusion: the whole config.json as transformers resolves it, all preprocessing, every tokenizer
file, every tensor in use, and of an adapter its whole configuration, tensors and heads; also the family, the precision,
and for texts the prompt and cleaning. Excluded are the keys in `_CONFIG_EXCLUDED` and `_ADAPTER_EXCLUDED`, which change
no vector (tests/encoders/test_fingerprints.py changes each), position ids, which transformers counts itself, and the
temperature of training.

Inputs of one tower alone are part of that tower's fingerprint only, so that models share the towers they have in
common: vision_config, the preprocessing and the vision tensors for images; text_config, the tokenizer and the text
tensors for texts; an adapter's configuration for the towers that it has tensors for. All other inputs are part of both.
A backbone's fingerprint is the image tower's without the inputs of its projection head.

Paths and modification times are no inputs: they only indicate when to compute a fingerprint again (`files_key`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clipstore.encoders.families import recognise
from clipstore.encoders.families.base import Config
from clipstore.encoders.fingerprint_inputs import (
    ModelFiles,
    base_tensors,
    list_model_files,
    read_model_files,
    select_tensors,
)
from clipstore.encoders.fingerprint_v1 import v1_base_digests
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import read_json
from clipstore.encoders.weights import TensorDigest
from clipstore.errors import ModelError
from clipstore.records import Model, Tower, TowerPrecision
from clipstore.training_files import TRAINING_RECORD

_SCHEME = "clipstore-fingerprint-2"  # part of every fingerprint: another number when the code's output changes

# Names, versions, and the data type of the saved weights: clipstore computes in the precision of its own setting.
_CONFIG_EXCLUDED = {"_name_or_path", "_commit_hash", "transformers_version", "torch_dtype", "dtype", "architectures"}

# Keys that transformers 4 wrote into every configuration and 5 no longer writes: with these values they are ignored.
_CONFIG_DEFAULTS: dict[str, object] = {
    "bad_words_ids": None, "begin_suppress_tokens": None, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0,
    "do_sample": False, "early_stopping": False, "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "problem_type": None,
    "remove_invalid_values": False, "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False,
    "suppress_tokens": None, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
    "text_config_dict": None, "vision_config_dict": None,
}  # fmt: skip

# The location of the base, the version of PEFT, and the classes of the model.
_ADAPTER_EXCLUDED = {"base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode"}
_ADAPTER_SETS = {"target_modules", "exclude_modules"}  # PEFT reads their lists as sets

_TOWER_KEYS = {"text_config", "text_config_dict", "vision_config", "vision_config_dict"}
_BASE_KEYS = ("hidden_act", "layer_norm_eps", "num_attention_heads", "patch_size", "eos_token_id")


def files_key(model: Model, precision: str, *, fetch: bool = True) -> str:
    """A key that changes whenever a fingerprint could: the model's settings and its files' paths, sizes and times.

    Raises:
        ModelError: a file is missing. Without `fetch`, nothing is downloaded.
    """
    files = list_model_files(model, fetch=fetch)
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(asdict(model), precision, stats)


def fingerprint_towers(model: Model, precision: TowerPrecision, *, fetch: bool = True) -> tuple[Tower, Tower]:
    """The image and the text tower of a model at a precision.

    Raises:
        ModelError: the model's files are missing or invalid.
    """
    files = read_model_files(model, fetch=fetch)
    _check_base(model, files)
    settings, family = files.settings, files.settings.family
    config = {key: value for key, value in hashed_settings(settings.config).items() if key not in _TOWER_KEYS}
    backbone = {key: value for key, value in config.items() if key not in family.head_keys}
    common = (model.family, precision)
    image = (*common, hashed_settings(settings.towers["vision"]), asdict(settings.preprocessing))
    texts = (*common, hashed_settings(settings.towers["text"]), files.tokenizer, model.prompt, model.clean)
    dim, features_dim = family.dim(settings.config, settings.towers), family.features_dim(settings.towers)
    features = _digest("image backbone", backbone, *image, *_weights(files, "image backbone")) if features_dim else None
    return (
        Tower(
            tower="image",
            fingerprint=_digest("image", config, *image, *_weights(files, "image backbone", "image head")),
            backbone=features,
            precision=precision,
            dim=dim,
            features_dim=features_dim,
        ),
        Tower(
            tower="text",
            fingerprint=_digest("text", config, *texts, *_weights(files, "text")),
            precision=precision,
            dim=dim,
        ),
    )


def base_digest(base: str) -> str:
    """The SHA-256 of a base's weights and of the settings that its towers compute with; independent of its location.

    It is unchanged when transformers saves the base again, under other names or with other defaults written out.

    Raises:
        ModelError: its files are missing.
    """
    folder = locate(base)
    family = recognise(folder, base)
    config = family.read_config(folder)
    towers = {tower: family.tower_config(config, tower) for tower in ("text", "vision")}
    return _base_digest(towers, base_tensors(family, folder))


def recorded_base_digest(base: Model, folder: Path) -> str:
    """The digest of a base that training.json in a folder records, if it is the first scheme's; else the current one.

    Raises:
        ModelError: the base's files are missing, or training.json cannot be read.
    """
    files = read_model_files(replace(base, adapter=None))
    file = folder / TRAINING_RECORD
    recorded = read_json(file).get("base_digest") if file.is_file() else None
    return recorded if recorded in v1_base_digests(files) else _base_digest(files.settings.towers, files.tensors)


def _base_digest(towers: dict[str, Config], tensors: list[TensorDigest]) -> str:
    settings = [[towers[tower].get(key) for key in _BASE_KEYS] for tower in ("text", "vision")]
    return _digest("base", settings, sorted(tensors))


def _check_base(model: Model, files: ModelFiles) -> None:
    """Refuse an adapter whose training.json records another base."""
    file = Path(model.adapter or "").expanduser() / TRAINING_RECORD
    if not model.adapter or not file.is_file():
        return
    recorded = read_json(file).get("base_digest")
    if recorded not in (_base_digest(files.settings.towers, files.tensors), *v1_base_digests(files)):
        message = (
            f"the adapter {model.adapter} was trained on another base than {model.base}: their weights or "
            "configurations differ; use the base that it was trained on"
        )
        raise ModelError(message)


def _weights(files: ModelFiles, *parts: str) -> tuple[object, ...]:
    """The tensors of some parts, and the adapter's configuration if it has tensors for them."""
    family = files.settings.family
    added = select_tensors(family, files.adapter_tensors, *parts)
    adapter = _adapter_settings(files.adapter) if files.adapter and added else None
    return select_tensors(family, files.tensors, *parts), added, select_tensors(family, files.heads, *parts), adapter


def hashed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that can change a vector."""
    absent = object()
    return {
        key: value
        for key, value in config.items()
        if key not in _CONFIG_EXCLUDED and value != _CONFIG_DEFAULTS.get(key, absent)
    }


def _adapter_settings(adapter: dict[str, Any]) -> dict[str, Any]:
    """An adapter's configuration without excluded keys. Patterns stay in order: PEFT uses the first that matches."""
    settings = {key: value for key, value in adapter.items() if key not in _ADAPTER_EXCLUDED}
    for key in settings.keys() & _ADAPTER_SETS:
        settings[key] = sorted(settings[key], key=str) if isinstance(settings[key], list) else settings[key]
    return {key: list(value.items()) if isinstance(value, dict) else value for key, value in settings.items()}


def _digest(*inputs: object) -> str:
    text = json.dumps([_SCHEME, *inputs], sort_keys=True, default=bytes.hex)
    return hashlib.sha256(text.encode()).hexdigest()
