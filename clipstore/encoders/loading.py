"""Load a model from its files: weights from safetensors alone, every tensor accounted for, a PEFT adapter merged in."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging

from clipstore.device import out_of_memory
from clipstore.encoders.adapter_checks import check_adapter
from clipstore.encoders.config_checks import check_weights, plain_config
from clipstore.encoders.families.base import Family
from clipstore.encoders.fingerprint_inputs import ModelSettings, read_settings
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import adapter_files, heads_file
from clipstore.encoders.weights import tensor_shapes
from clipstore.errors import ModelError
from clipstore.records import Model

# Errors of transformers and PEFT for files that do not fit, in addition to their own classes.
_LOAD_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError, ImportError, AssertionError),
    *(ArithmeticError, MemoryError, re.error, SafetensorError, StrictDataclassError),
)
_NAMES_SHOWN = 6  # tensor names in a message

# Adapter tensors that PEFT saves once, under other names.
_SHARED = ("vblora_vector_bank", "prompt_encoder", ".tinylora_v.", ".unilora_theta_d.")
_PARTS = {"image": ("image backbone", "image head"), "text": ("text",)}  # of each tower

_Vectors = dict[str, torch.Tensor]  # by tower


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model read from its files: transformers' model in fp32, its tokenizer and its settings."""

    model: Any
    tokenizer: Any
    settings: ModelSettings


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block, transformers logs only errors and shows no progress bars; restored afterwards."""
    verbosity, progress_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if progress_bar:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bar:
            logging.enable_progress_bar()


def load_model(model: Model) -> LoadedModel:
    """Load a new copy of a model, its adapter merged in.

    Raises:
        ModelError: files cannot be loaded, weights are missing, or the adapter does not fit or has no effect.
    """
    folder = locate(model.base)
    settings = read_settings(folder, model)
    with quiet_transformers():
        weights = _load_base(folder, model.base, settings)
        if model.adapter:
            weights = _merge_adapter(settings.family, weights, model.adapter)
        tokenizer = load_tokenizer(settings, folder, model.base)
    return LoadedModel(model=weights, tokenizer=tokenizer, settings=settings)


def load_tokenizer(settings: ModelSettings, folder: Path, base: str) -> Any:
    """The tokenizer of the base in a folder.

    Raises:
        ModelError: it cannot be loaded, or does not fit the family's recipe.
    """
    try:
        tokenizer = settings.family.load_tokenizer(folder)
    except Exception as error:  # the tokenizers library raises nothing narrower
        message = f"cannot open the tokenizer of {base} at {folder}: {' '.join(str(error).split())}"
        raise ModelError(message) from error
    tokenizer.model_max_length = sys.maxsize  # texts are cut to the model's own longest text
    settings.family.check_tokenizer(tokenizer, folder, settings.towers)
    return tokenizer


def move(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A model for inference, moved to a device.

    Raises:
        ModelError: its weights do not fit the device memory.
    """
    try:
        return model.eval().requires_grad_(requires_grad=False).to(device, dtype)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        size = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
        message = (
            f"the weights ({size / 2**20:,.0f} MiB) do not fit the free memory of {device}: free memory there, or use "
            "another --device"
        )
        raise ModelError(message) from error


def linear_modules(model: Any) -> list[str]:
    """The distinct names of the linear modules of a model, sorted: a LoRA can be placed on these."""
    names = (name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return sorted(set(names))


def load_heads(model: Any, file: Path) -> None:
    """Load trained heads, a safetensors file, into a model.

    Raises:
        ModelError: the file cannot be read, or its tensors do not fit this model.
    """
    try:
        heads = load_file(file)
    except (OSError, SafetensorError) as error:
        message = f"cannot read the heads {file}: {error}"
        raise ModelError(message) from error
    parameters = dict(model.named_parameters())
    for name, weight in heads.items():
        if name not in parameters or parameters[name].shape != weight.shape:
            message = f"the heads {file} do not fit their base: it has no {name} of the shape {tuple(weight.shape)}"
            raise ModelError(message)
        with torch.no_grad():
            parameters[name].copy_(weight)


def _load_base(folder: Path, base: str, settings: ModelSettings) -> Any:
    """The base in fp32, from safetensors; every weight must be in the files.

    transformers sees only the keys of the configuration that describe a model of the family.
    """
    family, config = settings.family, settings.config
    shapes = {name: shape for file in family.weight_files(folder) for name, shape in tensor_shapes(file).items()}
    check_weights(family, folder, config, settings.towers, shapes)
    try:
        model, missing = family.load(folder, plain_config(family, config))
    except _LOAD_ERRORS as error:
        message = f"cannot load {base} from {folder}: {' '.join(str(error).split())}"
        raise ModelError(message) from error
    if missing:
        message = f"{base} at {folder} lacks {len(missing)} weights, e.g. {missing[0]}: use a complete checkpoint"
        raise ModelError(message)
    return model


def _merge_adapter(family: Family, base: Any, adapter: str) -> Any:
    """The base with a PEFT adapter merged in, and with the trained heads of the adapter's folder, if any."""
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict  # seconds, which a base does not need

    folder = str(adapter_files(adapter)[0].parent)
    modules = linear_modules(base)
    check_adapter(adapter, [name for name, _ in base.named_modules()])
    before = _sample_outputs(family, base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of missing weights, which are checked below
            adapted = PeftModel.from_pretrained(base, folder)
            stored = load_peft_weights(folder, device="cpu")
            result = set_peft_model_state_dict(adapted, stored)  # a second time, for the names that it reports
            untouched = _check_tensor_names(family, adapter, list(stored), result)
            merged = adapted.merge_and_unload()
    except _LOAD_ERRORS as error:
        message = (
            f"the adapter {adapter} does not fit its base, whose linear modules are {', '.join(modules)}: "
            f"{' '.join(str(error).split())}"
        )
        raise ModelError(message) from error
    _check_effect(adapter, before, _sample_outputs(family, merged), untouched)
    heads = heads_file(adapter)
    if heads:
        load_heads(merged, heads)
    return merged


def _check_tensor_names(family: Family, adapter: str, stored: list[str], result: Any) -> set[str]:
    """The towers that an adapter has no tensors for. Its configuration may name them too, where it has no effect.

    Raises:
        ModelError: a stored tensor is not applied, or only some of a tower's tensors are stored.
    """
    if result.unexpected_keys:
        names = [name.replace(".default", "") for name in result.unexpected_keys]
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        message = (
            f"the adapter {adapter} has {len(names)} tensors that are not applied, {', '.join(names[:_NAMES_SHOWN])}"
            f"{more}: target_modules and exclude_modules in its adapter_config.json, and the kind of model, must be "
            "those that it was trained with"
        )
        raise ModelError(message)
    missing = {name for name in result.missing_keys if ".default" in name and not any(map(name.count, _SHARED))}
    parts = {family.part(name) for name in stored}
    absent = {tower for tower, own in _PARTS.items() if parts.isdisjoint(own)}
    lacking = [name for name in missing if not any(family.part(name) in _PARTS[tower] for tower in absent)]
    if lacking:
        message = (
            f"the adapter {adapter} does not fit its base: its configuration puts it on modules that it has no tensors "
            f"for, e.g. {sorted(lacking)[0].replace('.default', '')}"
        )
        raise ModelError(message)
    return absent


def _check_effect(adapter: str, before: _Vectors, after: _Vectors, untouched: set[str]) -> None:
    """Refuse an adapter without effect, or one that changes a tower it has no tensors for."""
    if all(torch.equal(before[tower], after[tower]) for tower in before):
        message = f"the adapter {adapter} has no effect: its vectors are identical to the base model's"
        raise ModelError(message)
    for tower in untouched:
        if not torch.allclose(before[tower], after[tower], rtol=1e-4, atol=1e-6):
            message = (
                f"the adapter {adapter} has no tensors for the {tower} tower, but its configuration still modifies "
                "that tower: narrow target_modules in its adapter_config.json to the tower that it was trained on"
            )
            raise ModelError(message)


@torch.inference_mode()
def _sample_outputs(family: Family, model: Any) -> _Vectors:
    return family.sample_outputs(model.eval())
