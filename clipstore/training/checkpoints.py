"""Checkpoints: folders that are replaced as a whole, with training.json to decide whether they can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from clipstore.errors import TrainingError
from clipstore.files import flush, write_whole
from clipstore.records import Lora, Training
from clipstore.training_files import TRAINING_RECORD, write_checksums

# Settings of [train] that may be greater than the checkpoint's: they extend a training run.
_EXTENDABLE = ("epochs", "patience")

JsonObject = dict[str, Any]


def replace_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Replace `folder` by a new one that `fill` writes. If writing fails, `folder` is unchanged.

    Raises:
        TrainingError: the new folder cannot be written, for example because the disk is full.
    """
    temporary, previous = _temporary(folder), _previous(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        fill(temporary)
        write_checksums(temporary)
        for file in [*temporary.iterdir(), temporary]:
            flush(file)
        if folder.exists():
            shutil.rmtree(previous, ignore_errors=True)
            folder.rename(previous)
        temporary.rename(folder)
        flush(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        recover_folder(folder)
        state = "the previous one is unchanged" if folder.exists() else "there is no previous one"
        message = (
            f"cannot write the checkpoint {folder}: {error.strerror or error}; {state}: free disk space, "
            "and train again"
        )
        raise TrainingError(message) from error
    except BaseException:  # an interruption; a killed process leaves the folder to the next one
        shutil.rmtree(temporary, ignore_errors=True)
        recover_folder(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Restore `folder` if a process was killed within `replace_folder`, and remove what else it left."""
    if not folder.exists() and _previous(folder).exists():
        _previous(folder).rename(folder)
    for leftover in (_temporary(folder), _previous(folder)):
        shutil.rmtree(leftover, ignore_errors=True)


def write_file(file: Path, text: str) -> None:
    """Replace a text file as a whole."""
    write_whole(file, text.encode())


def write_record(folder: Path, record: JsonObject) -> None:
    """Write training.json into the folder of a checkpoint."""
    (folder / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path, expected: JsonObject) -> JsonObject | None:
    """The training.json of a checkpoint that is to be resumed; None if there is no checkpoint.

    `expected` is the record of this run, without its position. More epochs or more patience than in the
    checkpoint are allowed: see `extensions`.

    Raises:
        TrainingError: the checkpoint has another base, other settings or other data, or it cannot be read.
    """
    recover_folder(folder)
    if not folder.is_dir():
        return None
    try:
        record: JsonObject = json.loads((folder / TRAINING_RECORD).read_text(encoding="utf-8"))
        differences = _differences(record, json.loads(json.dumps(expected)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"the checkpoint {folder} cannot be read ({error!r}): start from scratch with --restart"
        raise TrainingError(message) from error
    if differences:
        message = (
            f"the checkpoint {folder} does not match: {', '.join(differences)}; start from scratch with --restart, or "
            "undo the change"
        )
        raise TrainingError(message)
    return record


def extensions(record: JsonObject, expected: JsonObject) -> dict[str, tuple[int, int]]:
    """The settings of [train] that extend a checkpoint's training: (value in the checkpoint, value now)."""
    before, now = record["training"], expected["training"]
    return {key: (before[key], now[key]) for key in _EXTENDABLE if now[key] > before[key]}


def _differences(record: JsonObject, expected: JsonObject) -> list[str]:
    """What differs between the training.json of a checkpoint and that of this run, as messages name it."""
    differences = []
    if record["base_digest"] != expected["base_digest"]:
        differences.append("base weights")
    before, now = _flat_settings(record["training"]), _flat_settings(expected["training"])
    settings = _changed_keys(before, now, extendable=_EXTENDABLE)
    if settings:
        differences.append(f"settings of [train] ({settings})")
    texts = _changed_keys(record["text"], expected["text"])
    if texts:
        differences.append(f"prompt, caption cleaning or image orientation ({texts})")
    recorded_splits = record["splits"]
    splits = [name for name, digest in expected["splits"].items() if recorded_splits.get(name, digest) != digest]
    if splits:
        differences.append(f"images or captions in {' and '.join(sorted(splits))}")
    if record["training_images"] != expected["training_images"]:
        counts = f"{record['training_images']['count']}, now {expected['training_images']['count']}"
        differences.append(f"training images ({counts})")
    return differences


def _changed_keys(before: JsonObject, now: JsonObject, extendable: Sequence[str] = ()) -> str:
    """The keys whose values differ, with both values; empty if none does."""
    keys = [
        key
        for key in {**before, **now}
        if before.get(key) != now.get(key) and not (key in extendable and now[key] > before[key])
    ]
    return "; ".join(f"{key} {json.dumps(before.get(key))}, now {json.dumps(now.get(key))}" for key in keys)


def _flat_settings(training: JsonObject) -> JsonObject:
    """The tables [train] and [train.lora] as one, with "lora." before the latter's keys; missing keys have defaults."""
    settings = {**_defaults(Training), **training}
    lora = {**_defaults(Lora), **settings.pop("lora")}
    return settings | {f"lora.{key}": value for key, value in lora.items()}


def _defaults(record: type[Training] | type[Lora]) -> JsonObject:
    """The defaults of a record's fields, as JSON values."""
    defaults = {
        field.name: field.default for field in fields(record) if field.default is not MISSING and field.name != "lora"
    }
    return dict(json.loads(json.dumps(defaults)))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")
