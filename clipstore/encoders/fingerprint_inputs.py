"""The contents of a model's files that fingerprints are computed from, read without torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipstore.encoders.config_checks import check_config
from clipstore.encoders.families import recognise
from clipstore.encoders.families.base import Config, Family
from clipstore.encoders.images import AnyPreprocessing
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import adapter_files, heads_file, read_json, tokenizer_files
from clipstore.encoders.weights import TensorDigest, tensor_digests
from clipstore.errors import ModelError
from clipstore.records import Model


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The settings of a base.

    Attributes:
        config: the whole configuration.
        towers: the configurations of the towers "text" and "vision", resolved.
    """

    family: Family
    config: Config
    towers: dict[str, Config]
    preprocessing: AnyPreprocessing


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Everything in a model's files that decides its vectors.

    Attributes:
        folder: the folder of the base.
        settings: those of the base, and the model's `exif_orientation`.
        tokenizer: the SHA-256 of each tokenizer file, by its name.
        tensors, adapter_tensors, heads: digests of the base's tensors, the adapter's, and the trained heads'.
        adapter: the whole adapter_config.json; None without an adapter.
    """

    folder: Path
    settings: ModelSettings
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
    family = recognise(folder, model.base)
    base = [*family.settings_files(folder), *tokenizer_files(folder), *family.weight_files(folder)]
    return base + (adapter_files(model.adapter) if model.adapter else [])


def read_model_files(model: Model, *, fetch: bool = True) -> ModelFiles:
    """The contents of a model's files. Without `fetch`, nothing is downloaded.

    Raises:
        ModelError: files are missing, damaged, or do not fit together.
    """
    folder = locate(model.base, fetch=fetch)
    settings = read_settings(folder, model)
    adapter, heads = (adapter_files(model.adapter), heads_file(model.adapter)) if model.adapter else ([], None)
    return ModelFiles(
        folder=folder,
        settings=settings,
        tokenizer={file.name: _file_digest(file) for file in tokenizer_files(folder)},
        tensors=base_tensors(settings.family, folder),
        adapter=read_json(adapter[0]) if adapter else None,
        adapter_tensors=list(tensor_digests(adapter[1])) if adapter else [],
        heads=list(tensor_digests(heads)) if heads else [],
    )


def read_settings(folder: Path, model: Model) -> ModelSettings:
    """The settings of a model's base, which is in a folder.

    Raises:
        ModelError: the base is of another family than the model says, no model of the family can have its
            configuration, or its preprocessing produces pixels of another size than its image tower expects.
    """
    family = recognise(folder, model.base)
    if family.name != model.family:
        message = (
            f"{model.base} is {family.title}, and not of the family {model.family!r}: set the family {family.name!r}"
        )
        raise ModelError(message)
    config = family.read_config(folder)
    towers = {tower: family.tower_config(config, tower) for tower in ("text", "vision")}
    check_config(family, family.config_file(folder), config, towers)
    return ModelSettings(
        family=family,
        config=config,
        towers=towers,
        preprocessing=replace(family.read_preprocessing(folder, towers), exif_orientation=model.exif_orientation),
    )


def longest_text(model: Model) -> int:
    """The largest number of tokens in a text that a model reads, start and end tokens included.

    Raises:
        ModelError: files are missing, or do not fit together.
    """
    settings = read_settings(locate(model.base), model)
    return settings.family.longest_text(settings.towers)


def base_tensors(family: Family, folder: Path) -> list[TensorDigest]:
    """Every tensor of the base in a folder that the towers use.

    Position ids are left out: they are stored in old checkpoints, and transformers always counts them from 0 itself.

    Raises:
        ModelError: a file is damaged.
    """
    return [tensor for tensor in stored_tensors(family, folder) if not tensor[0].endswith(".embeddings.position_ids")]


def stored_tensors(family: Family, folder: Path) -> list[TensorDigest]:
    """Every tensor in the weight files of a folder, used or not.

    Raises:
        ModelError: a file is damaged.
    """
    return [tensor for file in family.weight_files(folder) for tensor in tensor_digests(file)]


def select_tensors(family: Family, tensors: list[TensorDigest], *parts: str) -> list[TensorDigest]:
    """The tensors of some parts ("image backbone", "image head", "text") and those of no known part, sorted."""
    return sorted(tensor for tensor in tensors if family.part(tensor[0]) in (*parts, "both"))


def _file_digest(file: Path) -> str:
    if file.suffix == ".json":
        read_json(file)  # reports a damaged file by name; the tokenizers' own errors have no common class
    return hashlib.sha256(file.read_bytes()).hexdigest()
