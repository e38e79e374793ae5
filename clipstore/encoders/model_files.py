"""The files in a model's folder.

Weights are read from safetensors only, and a model's code is never executed. Where several files could be used, the
choice is that of transformers and PEFT, which open them.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from clipstore.errors import ModelError
from clipstore.training_files import HEADS

# Every file that a tokenizer of transformers may open, for any class that tokenizer_config.json names. Chat templates
# are left out: they do not apply to captions.
_TOKENIZER_FILES = (
    "added_tokens.json", "special_tokens_map.json", "tokenizer*", "*vocab*", "merges*.txt", "tekken.json", "*.model",
    "*.spm", "*.tiktoken", "*.tokenizer", "bpe.codes", "dict.txt", "byte_maps.json", "emoji.json", "normalizer.json",
    "word_pronunciation.json", "word_shape.json",
)  # fmt: skip

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def read_json(file: Path) -> dict[str, Any]:
    """The object in a model's JSON file.

    Raises:
        ModelError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"cannot read {file}: {error}"
        raise ModelError(message) from error
    if not isinstance(value, dict):
        message = f"{file} is not a JSON object"
        raise ModelError(message)
    return value


def indexed_weights(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: the one that config.json names, else the single file, else the index's.

    Raises:
        ModelError: the configuration or the index cannot be read.
    """
    name = str(read_json(folder / "config.json").get("transformers_weights") or _SINGLE)
    file = folder / _file_name(folder / "config.json", name)
    if name == _SINGLE and not file.is_file() and (folder / _INDEX).is_file():
        file = folder / _INDEX
    return _indexed(file) if file.name.endswith(".index.json") else [file]


def _indexed(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        message = f"{index} has no weight_map from tensors to files"
        raise ModelError(message)
    return [index.parent / _file_name(index, name) for name in sorted(set(weight_map.values()))]


def _file_name(source: Path, name: str) -> str:
    """Refuse the name of a weight file that is in another folder, which the configuration or the index names."""
    if Path(name).name != name:
        message = f"{source} names the weight file {name!r}: expected the name of a file in its folder"
        raise ModelError(message)
    return name


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that decide the tokenization of a model, sorted by name."""
    return [file for file in sorted(folder.iterdir()) if _is_tokenizer(file.name) and file.is_file()]


def _is_tokenizer(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _TOKENIZER_FILES)


def preprocessor_file(folder: Path) -> Path:
    """The file with a model's preprocessing: processor_config.json if it has it, else preprocessor_config.json."""
    processor, preprocessor = folder / "processor_config.json", folder / "preprocessor_config.json"
    if preprocessor.is_file() and not (processor.is_file() and "image_processor" in read_json(processor)):
        return preprocessor
    return processor


def adapter_files(adapter: str) -> list[Path]:
    """The files of an adapter that decide vectors: PEFT's two, and the trained heads if any.

    Raises:
        ModelError: one of PEFT's is missing.
    """
    files = [Path(adapter).expanduser() / name for name in ("adapter_config.json", "adapter_model.safetensors")]
    for file in files:
        if not file.is_file():
            message = f"no {file.name} in {adapter}: an adapter is a folder that PEFT's save_pretrained wrote"
            raise ModelError(message)
    heads = heads_file(adapter)
    return [*files, heads] if heads else files


def heads_file(adapter: str) -> Path | None:
    """The trained heads in an adapter's folder, or None: a safetensors file, with the tensor names of the base."""
    file = Path(adapter).expanduser() / HEADS
    return file if file.is_file() else None
