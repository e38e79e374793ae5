"""Save a model as one folder that transformers opens, its adapter merged in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from clipstore.encoders.clip import ClipEncoder
from clipstore.encoders.loading import load_clip, quiet_transformers
from clipstore.encoders.model_files import locate, preprocessor_file, tokenizer_files
from clipstore.files import named_error
from clipstore.records import Model


def save_merged(model: Model, folder: Path, check: Callable[[ClipEncoder], None]) -> None:
    """Write a model's configuration and weights (fp32, its adapter merged in), tokenizer and preprocessing.

    `check` is called with the loaded model before anything is written.

    Raises:
        ModelError: the model cannot be loaded.
        OSError: the folder cannot be written to.
    """
    base_folder = locate(model.base)
    loaded = load_clip(model)
    check(ClipEncoder(loaded))
    try:
        with quiet_transformers():
            loaded.clip.save_pretrained(folder)
    except SafetensorError as error:
        raise named_error(error, folder) from error
    for file in (*tokenizer_files(base_folder), preprocessor_file(base_folder)):
        shutil.copyfile(file, folder / file.name)
