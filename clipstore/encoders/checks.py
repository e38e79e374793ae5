"""What can be said of a model before it is loaded: whether its files fit together, and what is doubtful."""

from __future__ import annotations

from pathlib import Path

from clipstore.encoders.fingerprint import base_digest
from clipstore.encoders.fingerprint_inputs import read_settings
from clipstore.encoders.model_files import adapter_files, locate, read_json
from clipstore.errors import ModelError
from clipstore.records import Model
from clipstore.training_files import TRAINING_RECORD


def check_model(model: Model) -> list[str]:
    """Refuse a model whose files cannot be had or do not fit together; what is doubtful about it, a sentence each.

    Raises:
        ModelError: the base is no CLIP, a file is missing, or the preprocessing does not fit; by name.
    """
    read_settings(locate(model.base), model.family)
    doubt = base_mismatch(model)
    return [doubt] if doubt else []


def base_mismatch(model: Model) -> str | None:
    """What is doubtful about a model whose adapter names another base; None where nothing is.

    Raises:
        ModelError: a file cannot be had.
    """
    return _base_mismatch(model.base, model.adapter) if model.adapter else None


def _base_mismatch(base: str, adapter: str) -> str | None:
    """What is doubtful about an adapter whose configuration names another base; None where nothing is.

    What clipstore trained itself says in training.json which weights it was trained on: loading it compares them.
    """
    recorded = read_json(adapter_files(adapter)[0]).get("base_model_name_or_path")
    if not isinstance(recorded, str) or not recorded or recorded == base:
        return None
    if (Path(adapter).expanduser() / TRAINING_RECORD).is_file():
        return None
    try:
        locate(recorded, fetch=False)
    except ModelError:
        return (
            f"the adapter {adapter} names the base {recorded}, which is not on this machine: whether {base} has the "
            "same weights is not known"
        )
    if base_digest(recorded) == base_digest(base):
        return None
    return f"the adapter {adapter} names the base {recorded}, whose weights are not those of {base}"
