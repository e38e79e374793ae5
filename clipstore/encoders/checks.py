"""Checks of a model before it is loaded: whether its files fit together, and warnings."""

from __future__ import annotations

from pathlib import Path

from clipstore.encoders.fingerprint import base_digest
from clipstore.encoders.fingerprint_inputs import read_settings
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import adapter_files, read_json
from clipstore.errors import ModelError
from clipstore.records import Model
from clipstore.training_files import TRAINING_RECORD


def check_model(model: Model) -> list[str]:
    """Refuse a model whose files are missing or do not fit together; warnings about it, a sentence each.

    Raises:
        ModelError: the base is of another family or of none that is known, a file is missing, or the
            preprocessing does not fit; by name.
    """
    read_settings(locate(model.base), model)
    warning = base_mismatch(model)
    return [warning] if warning else []


def base_mismatch(model: Model) -> str | None:
    """A warning if the configuration of a model's adapter names a base with other or unknown weights; else None.

    The adapters that clipstore trained are exempt: their training.json records the digest of the base's weights, which
    is compared when they are loaded.

    Raises:
        ModelError: a file is missing.
    """
    base, adapter = model.base, model.adapter
    if not adapter:
        return None
    recorded = read_json(adapter_files(adapter)[0]).get("base_model_name_or_path")
    if not isinstance(recorded, str) or not recorded or recorded == base:
        return None
    if (Path(adapter).expanduser() / TRAINING_RECORD).is_file():
        return None
    try:
        locate(recorded, fetch=False)
    except ModelError:
        return (
            f"the adapter {adapter} names the base {recorded}, which is not available locally: cannot verify that "
            f"{base} has the same weights"
        )
    if base_digest(recorded) == base_digest(base):
        return None
    return f"the adapter {adapter} names the base {recorded}, whose weights differ from those of {base}"
