"""Checks of a CLIP's config.json against what a CLIP can be and against its weights, before either is loaded.

A configuration comes from anywhere. Without these checks, transformers would build what it describes, for hours or
with terabytes, or fail in the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipstore.errors import ModelError

# The keys that describe a CLIP. All others are not given to transformers: among them are some that select code
# (`attn_implementation` can name a repository of kernels), and none that changes a vector.
_TOWER_KEYS = {
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "image_size",
    "initializer_factor", "initializer_range", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_channels", "num_hidden_layers", "pad_token_id", "patch_size", "projection_dim",
    "vocab_size",
}  # fmt: skip
_TOWERS = ("text_config", "text_config_dict", "vision_config", "vision_config_dict")
_KEYS = {"initializer_factor", "logit_scale_init_value", "projection_dim", "transformers_weights"}

# Keys with which a folder is not a plain CLIP, and what to do about them.
_REFUSED = {
    "quantization_config": "quantised weights are not read: use the original checkpoint",
    "auto_map": "it names code of its own, which clipstore does not run: import the vectors of such models",
}

# The sizes of a tower, with transformers' default and the largest that is accepted.
_SIZES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "text": {
        "hidden_size": (512, 2**16),
        "intermediate_size": (2048, 2**18),
        "num_hidden_layers": (12, 1000),
        "num_attention_heads": (8, 2**12),
        "max_position_embeddings": (77, 2**16),
        "vocab_size": (49408, 2**24),
    },
    "vision": {
        "hidden_size": (768, 2**16),
        "intermediate_size": (3072, 2**18),
        "num_hidden_layers": (12, 1000),
        "num_attention_heads": (12, 2**12),
        "image_size": (224, 2**13),
        "patch_size": (32, 2**13),
        "num_channels": (3, 3),
    },
}
_PROJECTION = (512, 2**16)
_MOST_LABELS = 10_000  # transformers writes a name for each

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # name of a tensor -> its dtype and shape


def plain_config(config: dict[str, Any]) -> dict[str, Any]:
    """The keys of a configuration that describe a CLIP, for transformers."""
    towers = {key: config[key] for key in _TOWERS if config.get(key) is not None}
    return {key: value for key, value in config.items() if key in _KEYS} | {
        key: {name: value for name, value in tower.items() if name in _TOWER_KEYS} for key, tower in towers.items()
    }


def check_config(file: Path, config: dict[str, Any], towers: Mapping[str, dict[str, Any]]) -> None:
    """Refuse a configuration that no CLIP can have. `towers` are its "text" and "vision" configurations, resolved.

    Raises:
        ModelError: the message names the key.
    """
    for table in (config, *towers.values()):
        for key, remedy in _REFUSED.items():
            if table.get(key):
                _refuse(file, f"{key}: {remedy}")
        _check_size(file, "num_labels", table.get("num_labels") or 1, _MOST_LABELS)
    _check_size(file, "projection_dim", config.get("projection_dim", _PROJECTION[0]), _PROJECTION[1])
    for tower, settings in towers.items():
        sizes = {key: settings.get(key, default) for key, (default, _) in _SIZES[tower].items()}
        for key, value in sizes.items():
            _check_size(file, f"{key} in {tower}_config", value, _SIZES[tower][key][1])
        if sizes["hidden_size"] % sizes["num_attention_heads"]:
            _refuse(file, f"hidden_size in {tower}_config is not a multiple of num_attention_heads")
        if sizes.get("patch_size", 1) > sizes.get("image_size", 1):
            _refuse(file, "patch_size in vision_config is larger than image_size")
        epsilon = settings.get("layer_norm_eps", 1e-5)
        if not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
            _refuse(file, f"layer_norm_eps = {epsilon!r} in {tower}_config: expected a positive number")
    end = towers.get("text", {}).get("eos_token_id", 0)
    if not isinstance(end, int) or isinstance(end, bool):  # transformers allows lists, and its CLIP fails with them
        _refuse(file, f"eos_token_id = {end!r} in text_config: expected the id of one token")


def check_weights(folder: Path, config: dict[str, Any], towers: Mapping[str, dict[str, Any]], shapes: Shapes) -> None:
    """Refuse weights that do not have the sizes of their configuration, which `check_config` accepted.

    Only a few tensors are compared: enough that what transformers builds is no larger than the files.

    Raises:
        ModelError: the message names the tensor.
    """
    expected_shapes = _expected_shapes(config, towers)
    stored = {
        name: [shape for other, (_, shape) in shapes.items() if _is_name(other, name)] for name in expected_shapes
    }
    missing = [name for name in expected_shapes if not stored[name]]
    if missing:
        message = f"{folder} lacks {len(missing)} weights, e.g. {missing[0]}: use a complete CLIP checkpoint"
        raise ModelError(message)
    for name, expected in expected_shapes.items():
        matching = stored[name]
        if expected not in matching:
            message = (
                f"{folder}: {name} has the shape {list(matching[0])}, and by config.json it has {list(expected)}: use "
                "the config.json that belongs to the weights"
            )
            raise ModelError(message)
    for name, (dtype, _) in shapes.items():
        if not dtype.startswith(("F", "BF")) and not name.endswith("position_ids"):
            message = f"{folder}: {name} has values of the type {dtype}: use a checkpoint with floating-point weights"
            raise ModelError(message)


def _is_name(stored: str, name: str) -> bool:
    """Whether a stored tensor is the one of this name; some checkpoints have a prefix."""
    return stored == name or stored.endswith(f".{name}")


def _expected_shapes(config: dict[str, Any], towers: Mapping[str, dict[str, Any]]) -> dict[str, tuple[int, ...]]:
    dim = config.get("projection_dim", _PROJECTION[0])
    text, vision = (
        {key: towers[tower].get(key, default) for key, (default, _) in _SIZES[tower].items()}
        for tower in ("text", "vision")
    )
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "text_model.embeddings.token_embedding.weight": (text["vocab_size"], text["hidden_size"]),
        "text_model.embeddings.position_embedding.weight": (text["max_position_embeddings"], text["hidden_size"]),
        "vision_model.embeddings.patch_embedding.weight": (
            *(vision["hidden_size"], vision["num_channels"], vision["patch_size"], vision["patch_size"]),
        ),
        "vision_model.embeddings.position_embedding.weight": (patches + 1, vision["hidden_size"]),
        "text_projection.weight": (dim, text["hidden_size"]),
        "visual_projection.weight": (dim, vision["hidden_size"]),
    }
    for tower, sizes in (("text", text), ("vision", vision)):
        last = f"{tower}_model.encoder.layers.{sizes['num_hidden_layers'] - 1}"
        shapes[f"{last}.mlp.fc1.weight"] = (sizes["intermediate_size"], sizes["hidden_size"])
    return shapes


def _check_size(file: Path, name: str, value: Any, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        _refuse(file, f"{name} = {str(value)[:60]}: expected {'3' if most == 3 else f'an integer from 1 to {most}'}")


def _refuse(file: Path, fault: str) -> None:
    message = f"{file}: {fault}"
    raise ModelError(message)
