"""Where the files of a model lie: bundled with clipstore, in a local folder, or on the hub.

Weights are read from safetensors alone and no code of a model's is ever run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipstore.errors import ModelError

_BUNDLED = "bundled:"
_CONVERTER = "SFconvertbot"  # the hub's own account that offers safetensors in a pull request
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either is enough
_LONGEST_TEXT = 77  # tokens, where a configuration does not say
_WANTED = ["*.json", "*.safetensors", "merges.txt"]  # of a hub repository


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
    """`place`, when it holds every file that a model needs.

    Raises:
        ModelError: a file is missing; the message names it.
    """
    missing = _missing(place)
    if missing:
        message = f"{base} at {place} has no {missing}"
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


def longest_text(place: Path) -> int:
    """How many tokens a CLIP in a folder reads of a text, its start and end tokens included.

    Raises:
        ModelError: the configuration cannot be read.
    """
    settings = read_json(place / "config.json").get("text_config")
    return int((isinstance(settings, dict) and settings.get("max_position_embeddings")) or _LONGEST_TEXT)


def weight_files(place: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or those that its index names."""
    index = place / "model.safetensors.index.json"
    if index.is_file():
        told = read_json(index).get("weight_map")
        if not isinstance(told, dict) or not all(isinstance(name, str) for name in told.values()):
            message = f"{index} has no weight_map that says which file holds which tensor"
            raise ModelError(message)
        return [place / name for name in sorted(set(told.values()))]
    return [place / "model.safetensors"]


def tokenizer_files(place: Path) -> list[Path]:
    """The files that decide how a model cuts text into tokens."""
    names = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
    return [place / name for name in names if (place / name).is_file()]


def preprocessor_file(place: Path) -> Path:
    """The file that says how a model wants its pixels."""
    own = place / "preprocessor_config.json"
    return own if own.is_file() else place / "processor_config.json"


def _missing(place: Path) -> str | None:
    """The first thing that a model folder lacks, in words."""
    if not (place / "config.json").is_file():
        return "config.json"
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
            f"or fetch it elsewhere with 'hf download {hub_id}' and give that folder as the base"
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
