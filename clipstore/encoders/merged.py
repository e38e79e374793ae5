"""Save a model as one folder that transformers opens, its adapter merged in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from clipstore.encoders.encoder import Encoder
from clipstore.encoders.loading import load_model, quiet_transformers
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import tokenizer_files
from clipstore.files import named_error
from clipstore.records import Model


def save_merged(model: Model, folder: Path, check: Callable[[Encoder], None]) -> None:
    """Write a model's configuration and weights (fp32, its adapter merged in), tokenizer and preprocessing.

    `check` is called with the loaded model before anything is written.

    Raises:
        ModelError: the model cannot be loaded.
        OSError: the folder cannot be written to.
    """
    base_folder = locate(model.base)
    loaded = load_model(model)
    check(Encoder(loaded))
    try:
        with quiet_transformers():
            loaded.model.save_pretrained(folder)
    except SafetensorError as error:
        raise named_error(error, folder) from error
    for file in tokenizer_files(base_folder):
        shutil.copyfile(file, folder / file.name)
    loaded.settings.family.save_preprocessing(base_folder, folder, loaded.settings.preprocessing)
