"""Fingerprints: the SHA-256 of all that decides a tower's output, computed from a model's files without torch.

An image tower's fingerprint covers family, vision configuration, its tensors (base and adapter), preprocessing and
precision; its backbone's the same without the projection head. A text tower's covers family, text configuration, its
tensors, the tokenizer, prompt, cleaning and precision. A tensor that no name
assigns counts for both towers; the temperature of training decides no vector.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipstore.encoders.images import read_preprocessing
from clipstore.encoders.sources import locate, preprocessor_file, read_json, tokenizer_files, weight_files
from clipstore.errors import ModelError
from clipstore.records import Model, Tower

# What training leaves beside PEFT's files: heads, what it was, and the SHA-256 of each photo that it saw.
HEADS, TRAINING, PHOTOS = "heads.safetensors", "training.json", "training_images.txt"

_SCHEME = "clipstore-fingerprint-1"  # part of every fingerprint: another number when the code's output changes
_NOISE = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"}
_PARTS = {  # part -> beginnings of the names of its tensors
    "image backbone": ("vision_model.",),
    "image head": ("visual_projection.",),
    "text": ("text_model.", "text_projection."),
    "no vector": ("logit_scale", "logit_bias"),
}

Tensor = tuple[str, str, bytes]  # name, "dtype shape", SHA-256 of the values


def model_files(model: Model, *, fetch: bool = True) -> list[Path]:
    """Every file that decides what a model's towers give; without `fetch`, only if they are on this machine.

    Raises:
        ModelError: one cannot be had.
    """
    place = locate(model.base, fetch=fetch)
    base = [place / "config.json", preprocessor_file(place), *tokenizer_files(place), *weight_files(place)]
    return base + (adapter_files(model.adapter) if model.adapter else [])


def adapter_files(adapter: str) -> list[Path]:
    """The files of an adapter that decide vectors: the two of a PEFT folder, and the heads where they were trained too.

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
    """The trained heads beside an adapter, or None: a safetensors file, its tensors named as in the base."""
    file = Path(adapter).expanduser() / HEADS
    return file if file.is_file() else None


def files_key(model: Model, precision: str, *, fetch: bool = True) -> str:
    """A key that changes whenever a fingerprint could: the model's words and its files' sizes and times.

    Raises:
        ModelError: a file cannot be had; without `fetch`, the hub is not asked.
    """
    files = model_files(model, fetch=fetch)
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    words = {key: value for key, value in asdict(model).items() if value or key != "exif_orientation"}
    return hashlib.sha256(json.dumps([_SCHEME, words, precision, stats]).encode()).hexdigest()


def describe(model: Model, precision: str) -> tuple[Tower, Tower]:
    """The image and the text tower of a model at a precision (fp32, bf16 or fp16).

    Raises:
        ModelError: the model's files cannot be had, or are not what they should be.
    """
    place = locate(model.base)
    config = read_json(place / "config.json")
    if config.get("model_type") != model.family or not {"text_config", "vision_config"} <= config.keys():
        message = f"{place / 'config.json'} is no configuration of a {model.family} model: give a whole checkpoint"
        raise ModelError(message)
    tensors = [tensor for file in weight_files(place) for tensor in _tensors(file)]
    adapter = _adapter_tensors(model.adapter) if model.adapter else []
    if model.adapter:
        _check_base(model, _base_digest(config, tensors))

    def digest(*what: object, parts: tuple[str, ...]) -> str:
        own = [t for t in tensors if _part(t[0]) in (*parts, "both")]
        added = [t for t in adapter if _part(t[0]) in (*parts, "both")]
        lora = _adapter_settings(model.adapter) if added and model.adapter else None
        return _digest(_SCHEME, model.family, precision, *what, lora, sorted(own), sorted(added))

    vision = [_settings(config.get("vision_config", {})), read_preprocessing(preprocessor_file(place)).key()]
    vision += ["exif_orientation"] * model.exif_orientation  # nothing where it is off: former fingerprints stay
    tokenizer = [_tokenizer_digest(file) for file in tokenizer_files(place)]
    text = [_settings(config.get("text_config", {})), tokenizer, model.prompt, model.clean]
    dim = int(config.get("projection_dim", 512))
    image = digest("image", vision, dim, parts=("image backbone", "image head"))
    return (
        Tower(
            tower="image",
            fingerprint=image,
            backbone=digest("image backbone", vision, parts=("image backbone",)),
            precision=precision,
            dim=dim,
            features_dim=int(config.get("vision_config", {}).get("hidden_size", 768)),
        ),
        Tower(
            tower="text",
            fingerprint=digest("text", text, dim, parts=("text",)),
            precision=precision,
            dim=dim,
        ),
    )


def _part(name: str) -> str:
    bare = name.removeprefix("base_model.model.")
    return next((part for part, starts in _PARTS.items() if bare.startswith(starts)), "both")


def _digest(*what: object) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=bytes.hex).encode()).hexdigest()


def base_digest(base: str) -> str:
    """What a base is, in one word: its weights and their shapes, whatever it is called and wherever it lies.

    Raises:
        ModelError: its files cannot be had.
    """
    place = locate(base)
    tensors = [tensor for file in weight_files(place) for tensor in _tensors(file)]
    return _base_digest(read_json(place / "config.json"), tensors)


def _base_digest(config: dict[str, Any], tensors: list[Tensor]) -> str:
    settings = [_settings(config.get(name, {})) for name in ("text_config", "vision_config")]
    return _digest(_SCHEME, "base", settings, sorted(tensors))


def _check_base(model: Model, digest: str) -> None:
    """Refuse an adapter that says it was trained on another base."""
    file = Path(model.adapter or "").expanduser() / TRAINING
    if file.is_file() and read_json(file).get("base_digest") != digest:
        message = (
            f"the adapter {model.adapter} was trained on another base than {model.base}: their weights differ; "
            "give it the base that it was trained on"
        )
        raise ModelError(message)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _NOISE}


def _adapter_tensors(adapter: str) -> list[Tensor]:
    return [tensor for file in adapter_files(adapter)[1:] for tensor in _tensors(file)]


def _adapter_settings(adapter: str) -> dict[str, Any]:
    """What of an adapter's configuration changes its output; paths and names do not."""
    config = read_json(adapter_files(adapter)[0])
    names = (
        "peft_type",
        "r",
        "lora_alpha",
        "use_rslora",
        "use_dora",
        "fan_in_fan_out",
        "rank_pattern",
        "alpha_pattern",
    )
    return {name: config.get(name) for name in names}


def _tokenizer_digest(file: Path) -> str:
    if file.suffix == ".json":
        read_json(file)  # told here, by name: the tokenizers' own errors are of no one kind
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _tensors(file: Path) -> tuple[Tensor, ...]:
    """Name, dtype and shape, and digest of every tensor of a safetensors file."""
    try:
        status = file.stat()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise ModelError(message) from error
    return _digests(file, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)  # models of one base share its file: it is read once in a run
def _digests(file: Path, _size: int, _modified_ns: int) -> tuple[Tensor, ...]:
    return tuple(_read_tensors(file))


def _read_tensors(file: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, read.

    The format (huggingface.co/docs/safetensors): eight bytes of header length, a JSON header with a
    [begin, end) of bytes for each tensor, the values. Read here, since its own reader knows no bfloat16 without torch.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            with memoryview(data) as view, view[8 + length :] as values:
                for name in sorted(header.keys() - {"__metadata__"}):
                    begin, end = header[name]["data_offsets"]
                    if not 0 <= begin <= end <= len(values):
                        message = f"{name} is beyond its end"
                        raise ValueError(message)  # noqa: TRY301  (told below, with the file)
                    with values[begin:end] as own:
                        yield name, f"{header[name]['dtype']} {header[name]['shape']}", hashlib.sha256(own).digest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        message = f"{file} is not a safetensors file, or is cut short: {error}"
        raise ModelError(message) from error
