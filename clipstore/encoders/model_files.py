"""Where the files of a model lie: bundled with clipstore, in a local folder, or on the hub.

Weights are read from safetensors alone and no code of a model's is ever run. Which of several files counts is decided
as transformers and PEFT decide it, since they open the files.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from clipstore.errors import ModelError
from clipstore.training_files import HEADS

_BUNDLED = "bundled:"
_CONVERTER = "SFconvertbot"  # the hub's own account that offers safetensors in a pull request
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either is enough
_WANTED = ["*.json", "*.safetensors", "merges.txt"]  # of a hub repository

# Every file that one of transformers' tokenizers opens, whichever class tokenizer_config.json names. Chat templates are
# none of them: no caption goes through one.
_TOKENIZER_FILES = (
    "added_tokens.json", "special_tokens_map.json", "tokenizer*", "*vocab*", "merges*.txt", "tekken.json", "*.model",
    "*.spm", "*.tiktoken", "*.tokenizer", "bpe.codes", "dict.txt", "byte_maps.json", "emoji.json", "normalizer.json",
    "word_pronunciation.json", "word_shape.json",
)  # fmt: skip

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DISTRIBUTED = re.compile(
    r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors"
)  # transformers loads these before all others

# Models that are not CLIP, by the beginning of their model_type.
_OTHERS = {
    "siglip": "a SigLIP model",
    "blip": "a BLIP model",
    "clip_vision_model": "the vision tower of a CLIP alone",
    "clip_text_model": "the text tower of a CLIP alone",
}


def locate(base: str, *, fetch: bool = True) -> Path:
    """The folder that holds the files of `base`: "bundled:NAME", a local folder, or a hub id (cached, else fetched).

    Without `fetch`, a hub id that is not cached cannot be had.

    Raises:
        ModelError: it cannot be had; the message says which file or hub id, and what to do.
    """
    if base.startswith(_BUNDLED):
        return _bundled(base.removeprefix(_BUNDLED))
    place = Path(base).expanduser()
    if place.is_dir():
        return complete(place.absolute(), base)
    if base.startswith((".", "/", "~")) or base.count("/") != 1:
        message = (
            f"no folder {base}: a base is a local folder, a hub id like openai/clip-vit-base-patch32, or bundled:demo"
        )
        raise ModelError(message)
    cached = _cached(base)
    if cached is None and not fetch:
        message = f"{base} is not in the hub's cache"
        raise ModelError(message)
    return cached or _fetched(base)


def complete(place: Path, base: str) -> Path:
    """`place`, when it holds every file that a CLIP model needs.

    Raises:
        ModelError: it holds another kind of model, or a file is missing; the message names it.
    """
    problem = _other_kind(place)
    if problem:
        message = f"{base} is {problem}: give a CLIP checkpoint with both towers, as transformers' CLIPModel saves it"
        raise ModelError(message)
    missing = _missing(place)
    if missing:
        message = f"{base} at {place} has no {missing}"
        raise ModelError(message)
    if (place / "adapter_config.json").is_file():
        message = f"{base} at {place} holds a PEFT adapter beside its weights: move it into a folder for --adapter"
        raise ModelError(message)
    return place


def read_json(file: Path) -> dict[str, Any]:
    """The object in a model's JSON file.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"cannot read {file}: {error}"
        raise ModelError(message) from error
    if not isinstance(told, dict):
        message = f"{file} is not a JSON object"
        raise ModelError(message)
    return told


def weight_files(place: Path) -> list[Path]:
    """The safetensors files of a model folder: the file that its configuration names, else one, else an index's."""
    first = read_json(place / "config.json").get("transformers_weights") or _SINGLE
    file = place / str(first)
    if first == _SINGLE and not file.is_file() and (place / _INDEX).is_file():
        file = place / _INDEX
    return _indexed(file) if file.name.endswith(".index.json") else [file]


def _indexed(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        message = f"{index} has no weight_map that says which file holds which tensor"
        raise ModelError(message)
    return [index.parent / name for name in sorted(set(weight_map.values()))]


def tokenizer_files(place: Path) -> list[Path]:
    """The files that decide how a model cuts text into tokens, by name."""
    return [file for file in sorted(place.iterdir()) if _is_tokenizer(file.name) and file.is_file()]


def _is_tokenizer(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _TOKENIZER_FILES)


def preprocessor_file(place: Path) -> Path:
    """The file that says how a model wants its pixels: processor_config.json where that has them, else its own."""
    whole, own = place / "processor_config.json", place / "preprocessor_config.json"
    return own if own.is_file() and not (whole.is_file() and "image_processor" in read_json(whole)) else whole


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


def _other_kind(place: Path) -> str | None:
    """What a folder holds instead of a CLIP of transformers', in words; None where it may be one."""
    config = read_json(place / "config.json") if (place / "config.json").is_file() else {}
    kind = config.get("model_type")
    if kind == "clip":
        lacking = [name for name in ("text", "vision") if not has_tower(config, name)]
        return f"a CLIP without its {' and '.join(lacking)} tower" if lacking else None
    if not kind and any(place.glob("open_clip*")):
        return "an OpenCLIP checkpoint"
    if not (place / "config.json").is_file():
        return None
    known = (words for start, words in _OTHERS.items() if str(kind).startswith(start))
    return next(known, f"a model of the type {kind}" if kind else "no model that transformers knows (no model_type)")


def has_tower(config: dict[str, Any], tower: str) -> bool:
    """Whether a CLIP's configuration describes a tower, "text" or "vision"; old checkpoints do so in *_config_dict."""
    return any(isinstance(config.get(f"{tower}_{name}"), dict) for name in ("config", "config_dict"))


def _missing(place: Path) -> str | None:
    """The first thing that a model folder lacks, in words."""
    if not (place / "config.json").is_file():
        return "config.json"
    if any(_DISTRIBUTED.fullmatch(file.name) for file in place.iterdir()):
        return "weights that clipstore reads: those of a distributed training are not; save it whole"
    if not all(file.is_file() for file in weight_files(place)):
        return "model.safetensors (weights in other formats are not read: convert them to safetensors)"
    if not any(all((place / name).is_file() for name in names) for names in _TOKENIZERS):
        return "tokenizer.json, nor vocab.json with merges.txt"
    if not preprocessor_file(place).is_file():
        return "preprocessor_config.json"
    return None


def _bundled(name: str) -> Path:
    place = Path(__file__).parent.parent / name / "model"
    if not place.is_dir():
        message = f"no bundled model {name!r}: there is bundled:demo"
        raise ModelError(message)
    return place


def _cached(hub_id: str) -> Path | None:
    """The folder of a hub model that lies complete in the hub's cache, the main revision first."""
    from huggingface_hub import constants, file_download

    root = Path(constants.HF_HUB_CACHE) / file_download.repo_folder_name(repo_id=hub_id, repo_type="model")
    main = root / "refs" / "main"
    first = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    places = sorted((root / "snapshots").glob("*"), key=lambda place: (place.name != first, place.name))
    return next((place for place in places if _missing(place) is None), None)


def _fetched(hub_id: str) -> Path:
    """The folder of a hub model, downloaded into the hub's cache."""
    import huggingface_hub as hub

    try:
        place = Path(hub.snapshot_download(hub_id, allow_patterns=_WANTED))
        revision = None if any(place.glob("*.safetensors")) else _converted(hub_id)
        if revision:
            place = Path(hub.snapshot_download(hub_id, allow_patterns=_WANTED, revision=revision))
    except (hub.errors.HTTPError, OSError, ValueError) as error:  # no network, no such repository, no valid id
        reason = str(error).strip().splitlines()[0]
        message = (
            f"no folder {hub_id} here, and it cannot be had from the hub ({reason}): get online once, "
            f"or fetch it elsewhere with 'hf download {hub_id}' "
            "and record that folder with 'clipstore model add NAME --base FOLDER'"
        )
        raise ModelError(message) from error
    return complete(place, hub_id)


def _converted(hub_id: str) -> str | None:
    """The open pull request in which the hub's own converter offers safetensors, for repositories without."""
    import huggingface_hub as hub

    offers = hub.get_repo_discussions(
        hub_id, author=_CONVERTER, discussion_type="pull_request", discussion_status="open"
    )
    return next((f"refs/pr/{offer.num}" for offer in offers), None)
