"""Checkpoints: folders that are whole or not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from clipstore.errors import TrainingError
from clipstore.files import flush
from clipstore.records import Lora, Training
from clipstore.training_files import TRAINING_RECORD

# Settings of [train] that may be greater than a checkpoint's: training goes on for longer.
_EXTENSIONS = ("epochs", "patience")

Told = dict[str, Any]


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Put a folder that `fill` fills into the place of `folder`, which stays as it was if that fails.

    Raises:
        TrainingError: it cannot be written: the disk is full, for one.
    """
    temporary, former = _temporary(folder), _former(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in [*temporary.iterdir(), temporary]:
            flush(file)
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)
            folder.rename(former)
        temporary.rename(folder)
        flush(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        settle(folder)
        kept = "the one before is as it was" if folder.exists() else "there is none before it"
        message = f"cannot write the checkpoint {folder}: {error.strerror or error}; {kept}: make room, and train again"
        raise TrainingError(message) from error
    shutil.rmtree(former, ignore_errors=True)


def settle(folder: Path) -> None:
    """Bring back what a run that was killed while it replaced `folder` had put aside."""
    if not folder.exists() and _former(folder).exists():
        _former(folder).rename(folder)


def write_json(folder: Path, told: Told) -> None:
    """Write training.json."""
    (folder / TRAINING_RECORD).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_json(folder: Path, about: Told) -> Told | None:
    """The training.json of a checkpoint to go on from; None when there is no checkpoint.

    More epochs or more patience than the checkpoint's are no other settings: see `extensions`.

    Raises:
        TrainingError: it is of another base, other settings or other data than `about` says, or cannot be read.
    """
    settle(folder)
    if not folder.is_dir():
        return None
    try:
        told: Told = json.loads((folder / TRAINING_RECORD).read_text(encoding="utf-8"))
        different = _differences(told, json.loads(json.dumps(about)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"the checkpoint {folder} cannot be read ({error!r}): begin anew with --restart"
        raise TrainingError(message) from error
    if different:
        message = f"the checkpoint {folder} is of {' and of '.join(different)}: begin anew with --restart, or go back"
        raise TrainingError(message)
    return told


def extensions(told: Told, about: Told) -> dict[str, tuple[int, int]]:
    """The settings of [train] that let a checkpoint's training go on for longer: before, and now."""
    before, now = told["training"], about["training"]
    return {key: (before[key], now[key]) for key in _EXTENSIONS if now[key] > before[key]}


def _differences(told: Told, now: Told) -> list[str]:
    """In what a checkpoint's training.json differs from what training is asked for now, in words."""
    different = []
    if told["base_digest"] != now["base_digest"]:
        different.append("another base: the weights differ")
    settings = _other(_settings(told["training"]), _settings(now["training"]), may_grow=_EXTENSIONS)
    if settings:
        different.append(f"other settings of [train] ({settings})")
    texts = _other(told["text"], now["text"])
    if texts:
        different.append(f"another prompt, cleaning of captions or orientation of images ({texts})")
    splits = sorted(name for name, digest in now["splits"].items() if told["splits"].get(name, digest) != digest)
    if splits:
        different.append(f"other images or captions in {' and '.join(splits)}")
    if told["training_images"] != now["training_images"]:
        counts = f"{told['training_images']['count']}, and {now['training_images']['count']} now"
        different.append(f"other photos ({counts})")
    return different


def _other(before: Told, now: Told, may_grow: Sequence[str] = ()) -> str:
    """The keys whose values differ, with both values; nothing where none does."""
    keys = [
        key
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not (key in may_grow and now[key] > before[key])
    ]
    return "; ".join(f"{key} {json.dumps(before.get(key))}, the job says {json.dumps(now.get(key))}" for key in keys)


def _settings(training: Told) -> Told:
    """The table [train] with its table lora, one key a setting; settings that it lacks have their default."""
    told = {**_defaults(Training), **training}
    lora = {**_defaults(Lora), **told.pop("lora")}
    return told | {f"lora.{key}": value for key, value in lora.items()}


def _defaults(record: type[Training] | type[Lora]) -> Told:
    """The defaults of a record's fields, as JSON has them."""
    defaults = {one.name: one.default for one in fields(record) if one.default is not MISSING and one.name != "lora"}
    return dict(json.loads(json.dumps(defaults)))


def write_text(file: Path, text: str) -> None:
    """Write a file beside its former self, then put it in its place."""
    temporary = _temporary(file)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _temporary(place: Path) -> Path:
    return place.with_name(f".{place.name}.tmp")


def _former(place: Path) -> Path:
    return place.with_name(f".{place.name}.former")
