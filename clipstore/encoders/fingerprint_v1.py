"""The fingerprints of clipstore's first scheme, so that vectors embedded under them are found again.

The first scheme hashed what it knew of: of config.json the two towers' tables and projection_dim, five tokenizer files,
eight keys of an adapter's configuration, and every stored tensor. Such a fingerprint stands for the same vectors as a
new one only where everything else is absent or as the libraries have it by default; elsewhere there is none.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from clipstore.encoders.fingerprint_inputs import (
    ModelFiles,
    read_model_files,
    size_of,
    stored_tensors,
    tensors_of,
    tower_config,
)
from clipstore.encoders.weights import Tensor
from clipstore.records import Model

_SCHEME = "clipstore-fingerprint-1"
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

# Keys of config.json beside those that the scheme hashed, which decide no vector where every weight is in the file.
_CONFIG_HARMLESS = {
    *("model_type", "text_config", "vision_config", "projection_dim", "_commit_hash", *_EXCLUDED),
    *("logit_scale_init_value", "initializer_factor", "initializer_range"),
}
# Keys of an adapter's configuration that only say which tensors it has, or which decide nothing once it is trained.
_ADAPTER_HARMLESS = {
    *("base_model_name_or_path", "revision", "peft_version", "auto_mapping", "inference_mode", "task_type"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    *("lora_dropout", "megatron_core", "qalora_group_size"),
}
_ADAPTER_DEFAULTS = {"bias": "none", "init_lora_weights": True}


def v1_fingerprints(model: Model, precision: str) -> dict[str, str]:
    """The first scheme's fingerprints of a model that stand for the same vectors as today's, by what they are of.

    Of "image", "backbone" and "text"; none where the first scheme missed something.

    Raises:
        ModelError: the model's files cannot be had, or are not what they should be.
    """
    files = read_model_files(model)
    tensors = stored_tensors(files.place)
    added = files.adapter_tensors + files.heads
    if not _base_covered(files):
        return {}

    def digest(*what: object, parts: tuple[str, ...]) -> str | None:
        if tensors_of(files.adapter_tensors, *parts) and not _adapter_covered(files.adapter or {}):
            return None
        own = tensors_of(added, *parts)
        lora = {name: (files.adapter or {}).get(name) for name in _ADAPTER} if own else None
        return _digest(_SCHEME, model.family, precision, *what, lora, tensors_of(tensors, *parts), own)

    vision = [_settings(files.config["vision_config"]), files.preprocessing.key()]
    tokenizer = [files.tokenizer[name] for name in _TOKENIZER if name in files.tokenizer]
    text = [_settings(files.config["text_config"]), tokenizer, model.prompt, model.clean]
    dim = size_of(files.config, "projection_dim", 512)
    digests = {
        "image": digest("image", vision, dim, parts=("image backbone", "image head")),
        "backbone": digest("image backbone", vision, parts=("image backbone",)),
        "text": digest("text", text, dim, parts=("text",)) if files.tokenizer.keys() <= set(_TOKENIZER) else None,
    }
    return {part: fingerprint for part, fingerprint in digests.items() if fingerprint}


def v1_base_digests(files: ModelFiles) -> set[str]:
    """What the first scheme may have written of this base beside an adapter that was trained on it.

    It hashed position ids where a checkpoint has them; the base may have been saved again without them since.
    """
    counted = [*files.tensors, _position_ids(files.config, "text"), _position_ids(files.config, "vision")]
    settings = [_settings(files.config.get(name) or {}) for name in ("text_config", "vision_config")]
    variants = (stored_tensors(files.place), files.tensors, counted)
    return {_digest(_SCHEME, "base", settings, sorted(tensors)) for tensors in variants}


def _position_ids(config: dict[str, Any], tower: str) -> Tensor:
    """The position ids that old checkpoints hold: int64, counted from 0."""
    settings = tower_config(config, tower)
    if tower == "text":
        count = size_of(settings, "max_position_embeddings", 77)
    else:
        count = (size_of(settings, "image_size", 224) // size_of(settings, "patch_size", 32)) ** 2 + 1
    values = hashlib.sha256(struct.pack(f"<{count}q", *range(count))).digest()
    return f"{tower}_model.embeddings.position_ids", f"I64 [1, {count}]", values


def _base_covered(files: ModelFiles) -> bool:
    """Whether the first scheme missed nothing of the base that both towers depend on."""
    said = {key for key, value in files.config.items() if value is not None}
    index, single = (files.place / name for name in ("model.safetensors.index.json", "model.safetensors"))
    known = said <= _CONFIG_HARMLESS and not files.preprocessing.exif_orientation
    return known and not (index.is_file() and single.is_file())


def _adapter_covered(adapter: dict[str, Any]) -> bool:
    """Whether the first scheme missed nothing of an adapter's configuration."""
    others = {key: value for key, value in adapter.items() if key not in _ADAPTER_HARMLESS.union(_ADAPTER)}
    return adapter.get("peft_type") == "LORA" and all(
        value == _ADAPTER_DEFAULTS[key] if key in _ADAPTER_DEFAULTS else not value for key, value in others.items()
    )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _EXCLUDED}


def _digest(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=bytes.hex).encode()).hexdigest()
