"""The contents of a model's files that its fingerprints are made of, read without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from clipstore.encoders.weights import Tensor, tensor_digests
from clipstore.errors import ModelError
from clipstore.records import Model

_LONGEST_TEXT = 77  # tokens, where a configuration does not say
_PARTS = {  # part -> beginnings of the names of its tensors
    "image backbone": ("vision_model.",),
    "image head": ("visual_projection.",),
    "text": ("text_model.", "text_projection."),
    "no vector": ("logit_scale", "logit_bias"),
}


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What decides a model's vectors, as its files have it.

    Attributes:
        place: the folder of the base.
        config: the whole config.json.
        preprocessing: all settings that pixels are made with: the preprocessor's, and the model's EXIF orientation.
        tokenizer: the SHA-256 of each tokenizer file, by its name.
        tensors, adapter_tensors, heads: of the base's weights, the adapter's, and the heads beside the adapter.
        adapter: the whole adapter_config.json; None without an adapter.
    """

    place: Path
    config: dict[str, Any]
    preprocessing: Preprocessing
    tokenizer: dict[str, str]
    tensors: list[Tensor]
    adapter: dict[str, Any] | None
    adapter_tensors: list[Tensor]
    heads: list[Tensor]


def model_files(model: Model, *, fetch: bool = True) -> list[Path]:
    """Every file that decides what a model's towers give; without `fetch`, only if they are on this machine.

    Raises:
        ModelError: one cannot be had.
    """
    place = locate(model.base, fetch=fetch)
    base = [place / "config.json", preprocessor_file(place), *tokenizer_files(place), *weight_files(place)]
    return base + (adapter_files(model.adapter) if model.adapter else [])


def read_model_files(model: Model, *, fetch: bool = True) -> ModelFiles:
    """The contents of a model's files.

    Raises:
        ModelError: they cannot be had, are damaged, or do not fit together.
    """
    place = locate(model.base, fetch=fetch)
    config, preprocessing = read_settings(place, model.family)
    adapter, heads = (adapter_files(model.adapter), heads_file(model.adapter)) if model.adapter else ([], None)
    return ModelFiles(
        place=place,
        config=config,
        preprocessing=replace(preprocessing, exif_orientation=model.exif_orientation),
        tokenizer={file.name: _file_digest(file) for file in tokenizer_files(place)},
        tensors=base_tensors(place),
        adapter=read_json(adapter[0]) if adapter else None,
        adapter_tensors=list(tensor_digests(adapter[1])) if adapter else [],
        heads=list(tensor_digests(heads)) if heads else [],
    )


def read_settings(place: Path, family: str) -> tuple[dict[str, Any], Preprocessing]:
    """The configuration of the base in a folder, and its preprocessing.

    Raises:
        ModelError: it is of another family, or its preprocessing makes pixels of another size than its image tower
            reads.
    """
    config = read_json(place / "config.json")
    if config.get("model_type") != family or not all(has_tower(config, tower) for tower in ("text", "vision")):
        message = f"{place / 'config.json'} is no configuration of a {family} model: give a whole checkpoint"
        raise ModelError(message)
    for tower in ("text", "vision"):
        epsilon = tower_config(config, tower).get("layer_norm_eps", 1e-5)
        if not isinstance(epsilon, int | float):  # transformers takes it, and fails when it computes
            message = f"{place / 'config.json'}: layer_norm_eps = {epsilon!r} in {tower}_config: expected a number"
            raise ModelError(message)
    file = preprocessor_file(place)
    preprocessing = read_preprocessing(file)
    size = tower_config(config, "vision").get("image_size", 224)
    if preprocessing.crop != (size, size):
        height, width = preprocessing.crop
        message = (
            f"{file} makes images of {height} x {width} pixels, and the model reads {size} x {size} "
            f"(image_size in {place / 'config.json'}): give the preprocessor_config.json that belongs to the weights"
        )
        raise ModelError(message)
    return config, preprocessing


def base_tensors(place: Path) -> list[Tensor]:
    """Every tensor of the base in a folder that the towers use.

    Position ids count from 0, whatever the file says: old checkpoints have them, and transformers makes its own.

    Raises:
        ModelError: a file is damaged.
    """
    return [one for one in stored_tensors(place) if not one[0].endswith(".embeddings.position_ids")]


def stored_tensors(place: Path) -> list[Tensor]:
    """Every tensor in the weight files of a folder, used or not.

    Raises:
        ModelError: a file is damaged.
    """
    return [tensor for file in weight_files(place) for tensor in tensor_digests(file)]


def tower_config(config: dict[str, Any], tower: str) -> dict[str, Any]:
    """The configuration of a tower, "text" or "vision", as transformers resolves it.

    A *_config_dict, as the first checkpoints have it, fills up with transformers' defaults, and overrides *_config.

    Raises:
        ModelError: transformers refuses it.
    """
    own, former = config.get(f"{tower}_config") or {}, config.get(f"{tower}_config_dict")
    if former is None:
        return dict(own)
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPTextConfig, CLIPVisionConfig

    resolve: Any = CLIPTextConfig if tower == "text" else CLIPVisionConfig
    try:
        return dict(own) | dict(resolve(**former).to_dict())
    except (TypeError, ValueError, StrictDataclassError) as error:
        message = f"{tower}_config_dict in the model's config.json: {' '.join(str(error).split())}"
        raise ModelError(message) from error


def longest_text(place: Path) -> int:
    """How many tokens the CLIP in a folder reads of a text, its start and end tokens included.

    Raises:
        ModelError: the configuration cannot be read, or transformers refuses it.
    """
    config = tower_config(read_json(place / "config.json"), "text")
    return size_of(config, "max_position_embeddings", _LONGEST_TEXT)


def size_of(config: dict[str, Any], key: str, default: int) -> int:
    """A size that a configuration says, or transformers' default.

    Raises:
        ModelError: it is no size.
    """
    value = config.get(key, default)
    if not isinstance(value, int) or value < 1:
        message = f"{key} = {value!r} in the model's config.json: expected a whole number"
        raise ModelError(message)
    return value


def tensors_of(tensors: list[Tensor], *parts: str) -> list[Tensor]:
    """The tensors of some parts ("image backbone", "image head", "text"), and those that no part claims, by name."""
    return sorted(tensor for tensor in tensors if _part(tensor[0]) in (*parts, "both"))


def _part(name: str) -> str:
    bare = name.removeprefix("base_model.model.")
    return next((part for part, starts in _PARTS.items() if bare.startswith(starts)), "both")


def _file_digest(file: Path) -> str:
    if file.suffix == ".json":
        read_json(file)  # a damaged file is reported here, by name: the tokenizers' own errors are of no one kind
    return hashlib.sha256(file.read_bytes()).hexdigest()
