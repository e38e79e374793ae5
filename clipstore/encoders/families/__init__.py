"""The families of models that clipstore encodes. A new one is a module here and a line in the table."""

from __future__ import annotations

from pathlib import Path

from clipstore.encoders.families.base import Config, Family
from clipstore.encoders.families.blip import Blip
from clipstore.encoders.families.clip import Clip
from clipstore.encoders.families.naflex import Naflex
from clipstore.encoders.families.openclip import CONFIG as OPENCLIP_CONFIG
from clipstore.encoders.families.openclip import OpenClip
from clipstore.encoders.families.siglip import Siglip
from clipstore.encoders.model_files import read_json
from clipstore.errors import ModelError

FAMILIES: tuple[Family, ...] = (Clip(), OpenClip(), Siglip(), Naflex(), Blip())

_BY_TYPE = {family.model_type: family for family in FAMILIES}
_TOWERS = {"clip_vision_model": "vision", "clip_text_model": "text"}  # model types of one tower alone


def recognise(folder: Path, base: str) -> Family:
    """The family of the model in a folder, by its configuration; `base` names it in messages.

    Raises:
        ModelError: the model is of no known family, or a tower alone.
    """
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else {}
    kind = str(config.get("model_type") or "")
    if not kind and (folder / OPENCLIP_CONFIG).is_file():
        return _BY_TYPE["openclip"]
    if not file.is_file():
        message = f"{base} at {folder}: no config.json"
        raise ModelError(message)
    problem = _problem(kind, config)
    if problem:
        known = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
        message = f"{base} is {problem}: use a checkpoint with both towers of a known family ({known})"
        raise ModelError(message)
    return _BY_TYPE[kind]


def _problem(kind: str, config: Config) -> str | None:
    """What a configuration of the model type `kind` describes, if it is no model of a known family; else None."""
    if kind in _TOWERS:
        return f"the {_TOWERS[kind]} tower of a CLIP alone"
    if kind not in _BY_TYPE:
        return f"a model of the type {kind[:60]}" if kind else "not recognised by transformers (no model_type)"
    missing = [name for name in ("text", "vision") if not has_tower(config, name)]
    return f"{_BY_TYPE[kind].title} without its {' and '.join(missing)} tower" if missing else None


def has_tower(config: Config, tower: str) -> bool:
    """Whether a configuration describes a tower, "text" or "vision"; old checkpoints of CLIP use *_config_dict."""
    return any(isinstance(config.get(f"{tower}_{name}"), dict) for name in ("config", "config_dict"))
