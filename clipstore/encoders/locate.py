"""Locate the folder of a model: bundled with clipstore, local, or on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from clipstore.encoders.families import recognise
from clipstore.errors import ModelError
from clipstore.network import OFFLINE_OPTION, is_offline

_BUNDLED = "bundled:"
_CONVERTER = "SFconvertbot"  # the hub's account that offers safetensors in a pull request
_DOWNLOADED = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model"]  # files of a hub repository
_DISTRIBUTED = re.compile(
    r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors"
)  # transformers loads these in preference to all others


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
    """Return `folder` if it contains every file that a model of its family needs.

    Raises:
        ModelError: it contains a model of no known family, or a file is missing; the message names it.
    """
    problem = _first_problem(folder, base)
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


def _first_problem(folder: Path, base: str) -> str | None:
    """A missing file, or unsupported weights, in a model folder; None if it is complete."""
    family = recognise(folder, base)
    if any(_DISTRIBUTED.fullmatch(file.name) for file in folder.iterdir()):
        return "distributed-training shards are not supported: save a single checkpoint"
    return family.missing_file(folder)


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
    return next((folder for folder in snapshots if _is_complete(folder, hub_id)), None)


def _is_complete(folder: Path, hub_id: str) -> bool:
    try:
        return _first_problem(folder, hub_id) is None
    except ModelError:
        return False


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
