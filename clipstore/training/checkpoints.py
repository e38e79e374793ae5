"""Checkpoints: folders that are whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipstore.errors import TrainingError

FILE = "training.json"

# What of a checkpoint's training.json must be as it is now for training to go on, and what it is called.
_SAME = {
    "base_digest": "another base: the weights differ",
    "training": "other settings of [train]",
    "text": "another prompt, cleaning of captions or orientation of images",
    "splits": "other images or captions in its splits",
    "training_images": "other photos",
}

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
            _flush(file)
        if folder.exists():
            shutil.rmtree(former, ignore_errors=True)
            folder.rename(former)
        temporary.rename(folder)
        _flush(folder.parent)
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
    (folder / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def read_json(folder: Path, about: Told) -> Told | None:
    """The training.json of a checkpoint to go on from; None when there is no checkpoint.

    Raises:
        TrainingError: it is of another base, other settings or other data than `about` says, or cannot be read.
    """
    settle(folder)
    if not folder.is_dir():
        return None
    try:
        told: Told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        different = [words for key, words in _SAME.items() if told[key] != json.loads(json.dumps(about[key]))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"the checkpoint {folder} cannot be read ({error!r}): begin anew with --restart"
        raise TrainingError(message) from error
    if different:
        message = f"the checkpoint {folder} is of {' and of '.join(different)}: begin anew with --restart, or go back"
        raise TrainingError(message)
    return told


def write_text(file: Path, text: str) -> None:
    """Write a file beside its former self, then put it in its place."""
    temporary = _temporary(file)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _temporary(place: Path) -> Path:
    return place.with_name(f".{place.name}.tmp")


def _former(place: Path) -> Path:
    return place.with_name(f".{place.name}.former")


def _flush(place: Path) -> None:
    opened = os.open(place, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
