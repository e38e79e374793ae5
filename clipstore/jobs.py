"""Job files: one TOML file that names a model and where its weights come from.

# jobs/pretrained.toml; the model's name is the file's
[model]
family = "clip"
base = "openai/clip-vit-base-patch32"     # a hub id, a local folder, or "bundled:demo"
adapter = "adapters/full"                 # optional: a PEFT folder
prompt = "a photo of {}"                  # optional: what the text tower reads; {} is the caption
clean = true                              # optional: lower-case and strip captions before the prompt
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from clipstore.errors import JobError, nearest
from clipstore.packaged import folder
from clipstore.records import Model

FAMILIES = ("clip",)
_KEYS: dict[str, type] = {"family": str, "base": str, "adapter": str, "prompt": str, "clean": bool}


def job_files() -> dict[str, Path]:
    """Every job that can be named, with its file: those in ./jobs, then the packaged ones."""
    found: dict[str, Path] = {}
    for place in (Path("jobs"), folder("jobs")):
        for file in sorted(place.glob("*.toml")):
            found.setdefault(file.stem, file)
    return found


def read_model(file: Path) -> Model:
    """The model that a job file describes.

    Raises:
        JobError: the file cannot be read, or a key is unknown, missing or of the wrong type; with its line.
    """
    try:
        text = file.read_text(encoding="utf-8")
        told = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        message = f"cannot read the job {file}: {error}"
        raise JobError(message) from error
    _check_keys(file, text, told, ("model",), "table")
    model = told.get("model")
    if not isinstance(model, dict):
        message = f"{file}: a job needs a table [model] with at least a base"
        raise JobError(message)
    _check_keys(file, text, model, _KEYS, "key")
    for key, value in model.items():
        if not isinstance(value, _KEYS[key]):
            message = f"{_at(file, text, key)}: {key} must be a {_KEYS[key].__name__}, not {value!r}"
            raise JobError(message)
    return checked_model(name=file.stem, where=str(file), **model)


def checked_model(*, name: str, where: str, base: str = "", family: str = "clip", **options: Any) -> Model:
    """A model of these values.

    Raises:
        JobError: a value is out of range; `where` says whose it is.
    """
    if not base:
        message = f"{where}: a model needs a base: a hub id, a local folder, or bundled:demo"
        raise JobError(message)
    if family not in FAMILIES:
        message = f"{where}: unknown family {family!r}{nearest(family, FAMILIES)}"
        raise JobError(message)
    prompt = options.get("prompt")
    if prompt is not None and "{}" not in prompt:
        message = f"{where}: the prompt {prompt!r} has no {{}} for the caption to stand in"
        raise JobError(message)
    return Model(name=name, family=family, base=base, **options)


def _check_keys(file: Path, text: str, told: dict[str, Any], known: Any, kind: str) -> None:
    for key in told:
        if key not in known:
            message = f"{_at(file, text, key)}: unknown {kind} {key!r}{nearest(key, known)}"
            raise JobError(message)


def _at(file: Path, text: str, key: str) -> str:
    """FILE:LINE of a key or table in a TOML text."""
    pattern = re.compile(rf"\s*(\[\s*)?[\"']?{re.escape(key)}[\"']?\s*[=\].]")
    line = next((n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
    return f"{file}:{line}"
