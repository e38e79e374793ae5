"""The fingerprints of clipstore's first scheme, to find vectors that were embedded under them.

The first scheme hashed a list of known inputs: of config.json the tables of both towers and projection_dim, five
tokenizer files, eight keys of an adapter's configuration, and every stored tensor. Such a fingerprint stands for the
same vectors as a current one only if all other inputs are absent or have the libraries' defaults. Otherwise there is
none.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from clipstore.encoders.fingerprint_inputs import (
    ModelFiles,
    ModelSettings,
    read_model_files,
    select_tensors,
    stored_tensors,
)
from clipstore.encoders.images import Preprocessing
from clipstore.encoders.weights import TensorDigest
from clipstore.records import Model

_SCHEME = "clipstore-fingerprint-1"
_FAMILY = "clip"  # the only one at that time
_EXCLUDED = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}
_TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
_ADAPTER = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
)

# Keys of config.json that the scheme hashed, and keys that change no vector if the file contains every weight.
_CONFIG_HARMLESS = {
    *("model_type", "text_config", "vision_config", "projection_dim", "_commit_hash", *_EXCLUDED),
    *("logit_scale_init_value", "initializer_factor", "initializer_range"),
}
# Keys of an adapter's configuration that only select its tensors, or that have no effect once it is trained.
_ADAPTER_HARMLESS = {
    *("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode", "task_type"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("lora_dropout", "megatron_core", "qalora_group_size"),
}
_ADAPTER_DEFAULTS = {"bias": "none", "init_lora_weights": True}


def v1_fingerprints(model: Model, precision: str) -> dict[str, str]:
    """The first scheme's fingerprints of a model that stand for its current vectors, by "image", "backbone" and "text".

    Parts for which the first scheme missed an input are absent.

    Raises:
        ModelError: the model's files are missing or invalid.
    """
    files = read_model_files(model)
    settings, family = files.settings, files.settings.family
    if family.name != _FAMILY or not _base_covered(files):
        return {}
    tensors = stored_tensors(family, files.folder)
    added = files.adapter_tensors + files.heads

    def digest(*inputs: object, parts: tuple[str, ...]) -> str | None:
        if select_tensors(family, files.adapter_tensors, *parts) and not _adapter_covered(files.adapter or {}):
            return None
        part_added = select_tensors(family, added, *parts)
        lora = {name: (files.adapter or {}).get(name) for name in _ADAPTER} if part_added else None
        part_tensors = select_tensors(family, tensors, *parts)
        return _digest(_SCHEME, model.family, precision, *inputs, lora, part_tensors, part_added)

    assert isinstance(settings.preprocessing, Preprocessing)
    vision = [_hashed_settings(settings.config["vision_config"]), settings.preprocessing.key()]
    tokenizer = [files.tokenizer[name] for name in _TOKENIZER if name in files.tokenizer]
    text = [_hashed_settings(settings.config["text_config"]), tokenizer, model.prompt, model.clean]
    dim = family.dim(settings.config, settings.towers)
    digests = {
        "image": digest("image", vision, dim, parts=("image backbone", "image head")),
        "backbone": digest("image backbone", vision, parts=("image backbone",)),
        "text": digest("text", text, dim, parts=("text",)) if files.tokenizer.keys() <= set(_TOKENIZER) else None,
    }
    return {part: fingerprint for part, fingerprint in digests.items() if fingerprint}


def v1_base_digests(files: ModelFiles) -> set[str]:
    """The digests that the first scheme may have recorded for this base in an adapter's training.json.

    It hashed position ids if the checkpoint had them. The base may have been saved again without them since.
    """
    family, config = files.settings.family, files.settings.config
    if family.name != _FAMILY:
        return set()
    counted = [*files.tensors, *(_position_ids(files.settings, tower) for tower in ("text", "vision"))]
    settings = [_hashed_settings(config.get(name) or {}) for name in ("text_config", "vision_config")]
    variants = (stored_tensors(family, files.folder), files.tensors, counted)
    return {_digest(_SCHEME, "base", settings, sorted(tensors)) for tensors in variants}


def _position_ids(settings: ModelSettings, tower: str) -> TensorDigest:
    """The position ids in old checkpoints: int64, counted from 0."""
    family, towers = settings.family, settings.towers
    is_text = tower == "text"
    count = family.longest_text(towers) if is_text else family.image_tokens(towers, settings.preprocessing)
    values = hashlib.sha256(struct.pack(f"<{count}q", *range(count))).digest()
    return f"{tower}_model.embeddings.position_ids", f"I64 [1, {count}]", values


def _base_covered(files: ModelFiles) -> bool:
    """Whether the first scheme hashed everything of the base that decides vectors of both towers."""
    keys = {key for key, value in files.settings.config.items() if value is not None}
    index, single = (files.folder / name for name in ("model.safetensors.index.json", "model.safetensors"))
    known = keys <= _CONFIG_HARMLESS and not files.settings.preprocessing.exif_orientation
    return known and not (index.is_file() and single.is_file())


def _adapter_covered(adapter: dict[str, Any]) -> bool:
    """Whether the first scheme hashed everything in an adapter's configuration that decides vectors."""
    others = {key: value for key, value in adapter.items() if key not in _ADAPTER_HARMLESS.union(_ADAPTER)}
    return adapter.get("peft_type") == "LORA" and all(
        value == _ADAPTER_DEFAULTS[key] if key in _ADAPTER_DEFAULTS else not value for key, value in others.items()
    )


def _hashed_settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _EXCLUDED}


def _digest(*inputs: object) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=bytes.hex).encode()).hexdigest()
