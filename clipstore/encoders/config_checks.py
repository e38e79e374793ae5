"""Checks of a model's config.json against what its family can be and against its weights, before either is loaded.

A configuration comes from anywhere. Without these checks, transformers would build what it describes, for hours or
with terabytes, or fail in the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from clipstore.encoders.families.base import Config, Family, Towers, check_size
from clipstore.errors import ModelError

_TOWERS = ("text_config", "text_config_dict", "vision_config", "vision_config_dict")

# Keys with which a folder is not a plain model, and what to do about them.
_REFUSED = {
    "quantization_config": "quantised weights are not read: use the original checkpoint",
    "auto_map": "it names code of its own, which clipstore does not run: import the vectors of such models",
}

_MOST_LABELS = 10_000  # transformers writes a name for each

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # name of a tensor -> its dtype and shape


def plain_config(family: Family, config: Config) -> Config:
    """The keys of a configuration that describe a model of its family, for transformers."""
    towers = {key: config[key] for key in _TOWERS if config.get(key) is not None}
    return {key: value for key, value in config.items() if key in family.model_keys} | {
        key: {name: value for name, value in tower.items() if name in family.tower_keys}
        for key, tower in towers.items()
    }


def check_config(family: Family, file: Path, config: Config, towers: Towers) -> None:
    """Refuse a configuration that no model of its family can have.

    Raises:
        ModelError: the message names the key.
    """
    for table in (config, *towers.values()):
        for key, remedy in _REFUSED.items():
            if table.get(key):
                _refuse(file, f"{key}: {remedy}")
        check_size(file, "num_labels", table.get("num_labels") or 1, _MOST_LABELS)
    for tower, settings in towers.items():
        sizes = {key: settings.get(key, default) for key, (default, _) in family.sizes[tower].items()}
        for key, value in sizes.items():
            check_size(file, f"{key} in {tower}_config", value, family.sizes[tower][key][1])
        if sizes["hidden_size"] % sizes["num_attention_heads"]:
            _refuse(file, f"hidden_size in {tower}_config is not a multiple of num_attention_heads")
        if sizes.get("patch_size", 1) > sizes.get("image_size", sizes.get("patch_size", 1)):
            _refuse(file, "patch_size in vision_config is larger than image_size")
        epsilon = settings.get("layer_norm_eps", 1e-5)
        if not isinstance(epsilon, int | float) or not 0 <= epsilon < math.inf:
            _refuse(file, f"layer_norm_eps = {epsilon!r} in {tower}_config: expected a positive number")
    family.check_config(file, config, towers)


def check_weights(family: Family, folder: Path, config: Config, towers: Towers, shapes: Shapes) -> None:
    """Refuse weights that do not have the sizes of their configuration, which `check_config` accepted.

    Only a few tensors are compared: enough that what transformers builds is no larger than the files.

    Raises:
        ModelError: the message names the tensor.
    """
    expected_shapes = family.expected_shapes(config, towers)
    stored = {
        name: [shape for other, (_, shape) in shapes.items() if _is_name(other, name)] for name in expected_shapes
    }
    missing = [name for name in expected_shapes if not stored[name]]
    if missing:
        message = f"{folder} lacks {len(missing)} weights, e.g. {missing[0]}: use a complete checkpoint"
        raise ModelError(message)
    for name, expected in expected_shapes.items():
        matching = stored[name]
        if expected not in matching:
            config_file = family.config_file(folder).name
            message = (
                f"{folder}: {name} has the shape {list(matching[0])}, and by {config_file} it has {list(expected)}: "
                f"use the {config_file} that belongs to the weights"
            )
            raise ModelError(message)
    for name, (dtype, _) in shapes.items():
        if not dtype.startswith(("F", "BF")) and not name.endswith("position_ids"):
            message = f"{folder}: {name} has values of the type {dtype}: use a checkpoint with floating-point weights"
            raise ModelError(message)


def _is_name(stored: str, name: str) -> bool:
    """Whether a stored tensor is the one of this name; some checkpoints have a prefix."""
    return stored == name or stored.endswith(f".{name}")


def _refuse(file: Path, fault: str) -> None:
    message = f"{file}: {fault}"
    raise ModelError(message)
