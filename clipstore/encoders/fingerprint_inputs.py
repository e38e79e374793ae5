"""The contents of a model's files that fingerprints are computed from, read without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipstore.encoders.config_checks import check_config
from clipstore.encoders.images import Preprocessing, read_preprocessing
from clipstore.encoders.model_files import (
    adapter_files,
    has_tower,
    heads_file,
    locate,
    preprocessor_file,
    read_json,
    tokenizer_files,
    weight_files,
)
from clipstore.encoders.weights import TensorDigest, tensor_digests
from clipstore.errors import ModelError
from clipstore.records import Model

_MAX_TOKENS = 77  # of a text, if the configuration does not set it
_PARTS = {  # part -> prefixes of the names of its tensors
    "image backbone": ("vision_model.",),
    "image head": ("visual_projection.",),
    "text": ("text_model.", "text_projection."),
    "no vector": ("logit_scale", "logit_bias"),
}


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Everything in a model's files that decides its vectors.

    Attributes:
        folder: the folder of the base.
        config: the whole config.json.
        preprocessing: all settings of the preprocessor, and the model's `exif_orientation`.
        tokenizer: the SHA-256 of each tokenizer file, by its name.
        tensors, adapter_tensors, heads: digests of the base's tensors, the adapter's, and the trained heads'.
        adapter: the whole adapter_config.json; None without an adapter.
    """

    folder: Path
    config: dict[str, Any]
    preprocessing: Preprocessing
    tokenizer: dict[str, str]
    tensors: list[TensorDigest]
    adapter: dict[str, Any] | None
    adapter_tensors: list[TensorDigest]
    heads: list[TensorDigest]


def list_model_files(model: Model, *, fetch: bool = True) -> list[Path]:
    """Every file that decides a model's vectors. Without `fetch`, nothing is downloaded.

    Raises:
        ModelError: a file is missing.
    """
    folder = locate(model.base, fetch=fetch)
    base = [folder / "config.json", preprocessor_file(folder), *tokenizer_files(folder), *weight_files(folder)]
    return base + (adapter_files(model.adapter) if model.adapter else [])


def read_model_files(model: Model, *, fetch: bool = True) -> ModelFiles:
    """The contents of a model's files. Without `fetch`, nothing is downloaded.

    Raises:
        ModelError: files are missing, damaged, or do not fit together.
    """
    folder = locate(model.base, fetch=fetch)
    config, preprocessing = read_settings(folder, model.family)
    adapter, heads = (adapter_files(model.adapter), heads_file(model.adapter)) if model.adapter else ([], None)
    return ModelFiles(
        folder=folder,
        config=config,
        preprocessing=replace(preprocessing, exif_orientation=model.exif_orientation),
        tokenizer={file.name: _file_digest(file) for file in tokenizer_files(folder)},
        tensors=base_tensors(folder),
        adapter=read_json(adapter[0]) if adapter else None,
        adapter_tensors=list(tensor_digests(adapter[1])) if adapter else [],
        heads=list(tensor_digests(heads)) if heads else [],
    )


def read_settings(folder: Path, family: str) -> tuple[dict[str, Any], Preprocessing]:
    """The configuration and the preprocessing of the base in a folder.

    Raises:
        ModelError: the base is of another family, no CLIP can have its configuration, or its preprocessing produces
            pixels of another size than its image tower expects.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != family or not all(has_tower(config, tower) for tower in ("text", "vision")):
        message = f"{folder / 'config.json'} is not a {family.upper()} configuration: use a complete checkpoint"
        raise ModelError(message)
    towers = {tower: tower_config(config, tower) for tower in ("text", "vision")}
    check_config(folder / "config.json", config, towers)
    file = preprocessor_file(folder)
    preprocessing = read_preprocessing(file)
    size = towers["vision"].get("image_size", 224)
    if preprocessing.crop != (size, size):
        height, width = preprocessing.crop
        message = (
            f"{file} produces images of {height} x {width} pixels, but the model expects {size} x {size} "
            f"(image_size in {folder / 'config.json'}): use the preprocessor_config.json that belongs to the weights"
        )
        raise ModelError(message)
    return config, preprocessing


def base_tensors(folder: Path) -> list[TensorDigest]:
    """Every tensor of the base in a folder that the towers use.

    Position ids are left out: they are stored in old checkpoints, and transformers always counts them from 0 itself.

    Raises:
        ModelError: a file is damaged.
    """
    return [tensor for tensor in stored_tensors(folder) if not tensor[0].endswith(".embeddings.position_ids")]


def stored_tensors(folder: Path) -> list[TensorDigest]:
    """Every tensor in the weight files of a folder, used or not.

    Raises:
        ModelError: a file is damaged.
    """
    return [tensor for file in weight_files(folder) for tensor in tensor_digests(file)]


def tower_config(config: dict[str, Any], tower: str) -> dict[str, Any]:
    """The configuration of a tower, "text" or "vision", as transformers resolves it.

    A *_config_dict, as in the first checkpoints, is completed with transformers' defaults and overrides *_config.

    Raises:
        ModelError: transformers refuses it.
    """
    config_table, config_dict = config.get(f"{tower}_config") or {}, config.get(f"{tower}_config_dict")
    if config_dict is None:
        return dict(config_table)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPTextConfig, CLIPVisionConfig

    resolve: Any = CLIPTextConfig if tower == "text" else CLIPVisionConfig
    try:
        return dict(config_table) | dict(resolve(**config_dict).to_dict())
    except (TypeError, ValueError, StrictDataclassError) as error:
        message = f"{tower}_config_dict in the model's config.json: {' '.join(str(error).split())}"
        raise ModelError(message) from error


def longest_text(folder: Path) -> int:
    """The largest number of tokens in a text that the CLIP in a folder takes, start and end tokens included.

    Raises:
        ModelError: the configuration cannot be read, or transformers refuses it.
    """
    config = tower_config(read_json(folder / "config.json"), "text")
    return config_size(config, "max_position_embeddings", _MAX_TOKENS)


def config_size(config: dict[str, Any], key: str, default: int) -> int:
    """A positive integer of a configuration; `default` is transformers' own.

    Raises:
        ModelError: it is not a positive integer.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or value < 1:
        message = f"{key} = {value!r} in the model's config.json: expected a positive integer"
        raise ModelError(message)
    return value


def select_tensors(tensors: list[TensorDigest], *parts: str) -> list[TensorDigest]:
    """The tensors of some parts ("image backbone", "image head", "text") and those of no known part, sorted."""
    return sorted(tensor for tensor in tensors if _part(tensor[0]) in (*parts, "both"))


def _part(name: str) -> str:
    bare = name.removeprefix("base_model.model.")
    return next((part for part, prefixes in _PARTS.items() if bare.startswith(prefixes)), "both")


def _file_digest(file: Path) -> str:
    if file.suffix == ".json":
        read_json(file)  # reports a damaged file by name; the tokenizers' own errors have no common class
    return hashlib.sha256(file.read_bytes()).hexdigest()
