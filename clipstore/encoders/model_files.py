"""Locate the files of a model: bundled with clipstore, in a local folder, or on the Hugging Face hub.

Weights are read from safetensors only, and a model's code is never executed. Where several files could be used, the
choice is that of transformers and PEFT, which open them.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from clipstore.errors import ModelError
from clipstore.network import OFFLINE_OPTION, is_offline
from clipstore.training_files import HEADS

_BUNDLED = "bundled:"
_CONVERTER = "SFconvertbot"  # the hub's account that offers safetensors in a pull request
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either is enough
_DOWNLOADED = ["*.json", "*.safetensors", "merges.txt"]  # files of a hub repository

# Every file that a tokenizer of transformers may open, for any class that tokenizer_config.json names. Chat templates
# are left out: they do not apply to captions.
_TOKENIZER_FILES = (
    "added_tokens.json", "special_tokens_map.json", "tokenizer*", "*vocab*", "merges*.txt", "tekken.json", "*.model",
    "*.spm", "*.tiktoken", "*.tokenizer", "bpe.codes", "dict.txt", "byte_maps.json", "emoji.json", "normalizer.json",
    "word_pronunciation.json", "word_shape.json",
)  # fmt: skip

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DISTRIBUTED = re.compile(
    r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors"
)  # transformers loads these in preference to all others

# Models other than CLIP, by the prefix of their model_type.
_OTHER_MODELS = {
    "siglip": "a SigLIP model",
    "blip": "a BLIP model",
    "clip_vision_model": "the vision tower of a CLIP alone",
    "clip_text_model": "the text tower of a CLIP alone",
}


def locate(base: str, *, fetch: bool = True) -> Path:
    """The folder with the files of `base`: "bundled:NAME", a local folder, or a hub id (cached, else downloaded).

    Without `fetch`, nothing is downloaded.

    Raises:
        ModelError: there is no such base; the message names the missing file or hub id and the remedy.
    """
    if base.startswith(_BUNDLED):
        return _bundled(base.removeprefix(_BUNDLED))
    folder = Path(base).expanduser()
    if folder.is_dir():
        return check_complete(folder.absolute(), base)
    if base.startswith((".", "/", "~")) or base.count("/") != 1:
        message = (
            f"no folder {base}: a base is a local folder, a hub id like openai/clip-vit-base-patch32, or bundled:demo"
        )
        raise ModelError(message)
    cached = _find_in_cache(base)
    if cached is None and not fetch:
        message = f"{base} is not in the hub's cache"
        raise ModelError(message)
    return cached or _download(base)


def check_complete(folder: Path, base: str) -> Path:
    """Return `folder` if it contains every file that a CLIP model needs.

    Raises:
        ModelError: it contains another kind of model, or a file is missing; the message names it.
    """
    problem = _other_model(folder)
    if problem:
        message = f"{base} is {problem}: use a CLIP checkpoint with both towers, as transformers' CLIPModel saves it"
        raise ModelError(message)
    problem = _first_problem(folder)
    if problem:
        message = f"{base} at {folder}: {problem}"
        raise ModelError(message)
    if (folder / "adapter_config.json").is_file():
        message = (
            f"{base} at {folder} contains both weights and a PEFT adapter: move the adapter to another folder for "
            "--adapter"
        )
        raise ModelError(message)
    return folder


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


def weight_files(folder: Path) -> list[Path]:
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


def _other_model(folder: Path) -> str | None:
    """The kind of model in a folder that is not a CLIP of transformers; None if it may be one."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    kind = config.get("model_type")
    if kind == "clip":
        missing = [name for name in ("text", "vision") if not has_tower(config, name)]
        return f"a CLIP without its {' and '.join(missing)} tower" if missing else None
    if not kind and any(folder.glob("open_clip*")):
        return "an OpenCLIP checkpoint"
    if not (folder / "config.json").is_file():
        return None
    known = (description for prefix, description in _OTHER_MODELS.items() if str(kind).startswith(prefix))
    return next(known, f"a model of the type {kind}" if kind else "not recognised by transformers (no model_type)")


def has_tower(config: dict[str, Any], tower: str) -> bool:
    """Whether a CLIP's configuration describes a tower, "text" or "vision"; old checkpoints use *_config_dict."""
    return any(isinstance(config.get(f"{tower}_{name}"), dict) for name in ("config", "config_dict"))


def _first_problem(folder: Path) -> str | None:
    """A missing file, or unsupported weights, in a model folder; None if it is complete."""
    if not (folder / "config.json").is_file():
        return "no config.json"
    if any(_DISTRIBUTED.fullmatch(file.name) for file in folder.iterdir()):
        return "distributed-training shards are not supported: save a single checkpoint"
    if not all(file.is_file() for file in weight_files(folder)):
        return "no model.safetensors (weights in other formats are not read: convert them to safetensors)"
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        return "no tokenizer.json, nor vocab.json with merges.txt"
    if not preprocessor_file(folder).is_file():
        return "no preprocessor_config.json"
    return None


def _bundled(name: str) -> Path:
    folder = Path(__file__).parent.parent / name / "model"
    if not folder.is_dir():
        message = f"no bundled model {name!r}: there is bundled:demo"
        raise ModelError(message)
    return folder


def _find_in_cache(hub_id: str) -> Path | None:
    """The folder of a hub model that is complete in the hub's cache; the main revision is preferred."""
    from huggingface_hub import constants, file_download

    root = Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(repo_id=hub_id, repo_type="model")
    main = root / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    snapshots = sorted((root / "snapshots").glob("*"), key=lambda folder: (folder.name != revision, folder.name))
    return next((folder for folder in snapshots if _first_problem(folder) is None), None)


def _download(hub_id: str) -> Path:
    """Download a hub model into the hub's cache; its folder."""
    if is_offline():
        raise _not_downloaded(hub_id, f"{OFFLINE_OPTION} forbids the network")
    import huggingface_hub as hub

    try:
        folder = Path(hub.snapshot_download(hub_id, allow_patterns=_DOWNLOADED))
        revision = None if any(folder.glob("*.safetensors")) else _converted_revision(hub_id)
        if revision:
            folder = Path(hub.snapshot_download(hub_id, allow_patterns=_DOWNLOADED, revision=revision))
    except (hub.errors.HTTPError, OSError, ValueError) as error:  # no network, no such repository, or no valid id
        raise _not_downloaded(hub_id, str(error).strip().splitlines()[0]) from error
    return check_complete(folder, hub_id)


def _not_downloaded(hub_id: str, reason: str) -> ModelError:
    return ModelError(
        f"no folder {hub_id} here, and it cannot be downloaded from the hub ({reason}): run again online, or "
        f"download it elsewhere with 'hf download {hub_id}' "
        "and record that folder with 'clipstore model add NAME --base FOLDER'"
    )


def _converted_revision(hub_id: str) -> str | None:
    """The open pull request in which the hub's converter offers safetensors, for repositories without."""
    import huggingface_hub as hub

    offers = hub.get_repo_discussions(
        hub_id, author=_CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    return next((f"refs/pr/{offer.num}" for offer in offers), None)
