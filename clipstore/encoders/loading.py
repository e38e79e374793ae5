"""Load a CLIP from its files: weights from safetensors alone, every tensor accounted for, a PEFT adapter merged in."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.utils import logging

from clipstore.encoders.adapter_checks import check_adapter
from clipstore.encoders.config_checks import check_weights, plain_config
from clipstore.encoders.fingerprint_inputs import read_settings, tower_config
from clipstore.encoders.images import Preprocessing
from clipstore.encoders.model_files import adapter_files, heads_file, locate, weight_files
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
_TOWERS = {"image": ("vision_model.", "visual_projection"), "text": ("text_model.", "text_projection")}

_Vectors = dict[str, torch.Tensor]  # by tower


@dataclass(frozen=True, kw_only=True)
class LoadedClip:
    """A model read from its files: transformers' CLIPModel in fp32, its tokenizer and its preprocessing."""

    clip: Any
    tokenizer: Any
    preprocessing: Preprocessing


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


def load_clip(model: Model) -> LoadedClip:
    """Load a new copy of a model, its adapter merged in.

    Raises:
        ModelError: files cannot be loaded, weights are missing, or the adapter does not fit or has no effect.
    """
    folder = locate(model.base)
    config, preprocessing = read_settings(folder, model.family)
    with quiet_transformers():
        clip = _load_base(folder, model.base, config)
        if model.adapter:
            clip = _merge_adapter(clip, model.adapter)
        tokenizer = load_tokenizer(str(folder), model.base)
    return LoadedClip(
        clip=clip,
        tokenizer=tokenizer,
        preprocessing=replace(preprocessing, exif_orientation=model.exif_orientation),
    )


def load_tokenizer(folder: str, base: str) -> Any:
    """The tokenizer of the base in a folder.

    Raises:
        ModelError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        message = f"cannot open the tokenizer of {base} at {folder}: {' '.join(str(error).split())}"
        raise ModelError(message) from error


def linear_modules(clip: Any) -> list[str]:
    """The distinct names of the linear modules of a CLIP, sorted: a LoRA can be placed on these."""
    names = (name.rpartition(".")[2] for name, module in clip.named_modules() if isinstance(module, torch.nn.Linear))
    return sorted(set(names))


def load_heads(clip: Any, file: Path) -> None:
    """Load trained heads, a safetensors file, into a CLIP.

    Raises:
        ModelError: the file cannot be read, or its tensors do not fit this CLIP.
    """
    try:
        heads = load_file(file)
    except (OSError, SafetensorError) as error:
        message = f"cannot read the heads {file}: {error}"
        raise ModelError(message) from error
    parameters = dict(clip.named_parameters())
    for name, weight in heads.items():
        if name not in parameters or parameters[name].shape != weight.shape:
            message = f"the heads {file} do not fit their base: it has no {name} of the shape {tuple(weight.shape)}"
            raise ModelError(message)
        with torch.no_grad():
            parameters[name].copy_(weight)


def _load_base(folder: Path, base: str, config: dict[str, Any]) -> Any:
    """The base in fp32, from safetensors; every weight must be in the files.

    transformers sees only the keys of the configuration that describe a CLIP.
    """
    towers = {tower: tower_config(config, tower) for tower in ("text", "vision")}
    shapes = {name: shape for file in weight_files(folder) for name, shape in tensor_shapes(file).items()}
    check_weights(folder, config, towers, shapes)
    try:
        loaded, report = CLIPModel.from_pretrained(
            str(folder),
            config=CLIPConfig.from_dict(plain_config(config)),
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        message = f"cannot load {base} from {folder}: {' '.join(str(error).split())}"
        raise ModelError(message) from error
    missing = [name for name in report["missing_keys"] if not name.endswith("position_ids")]
    if missing:
        message = f"{base} at {folder} lacks {len(missing)} weights, e.g. {missing[0]}: use a complete CLIP checkpoint"
        raise ModelError(message)
    return loaded


def _merge_adapter(base: Any, adapter: str) -> Any:
    """The base with a PEFT adapter merged in, and with the trained heads of the adapter's folder, if any."""
    from peft import PeftModel, load_peft_weights, set_peft_model_state_dict  # seconds, which a base does not need

    folder = str(adapter_files(adapter)[0].parent)
    modules = linear_modules(base)
    check_adapter(adapter, [name for name, _ in base.named_modules()])
    before = _fixed_vectors(base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of missing weights, which are checked below
            adapted = PeftModel.from_pretrained(base, folder)
            stored = load_peft_weights(folder, device="cpu")
            result = set_peft_model_state_dict(adapted, stored)  # a second time, for the names that it reports
            untouched = _check_tensor_names(adapter, list(stored), result)
            merged = adapted.merge_and_unload()
    except _LOAD_ERRORS as error:
        message = (
            f"the adapter {adapter} does not fit its base, whose linear modules are {', '.join(modules)}: "
            f"{' '.join(str(error).split())}"
        )
        raise ModelError(message) from error
    _check_effect(adapter, before, _fixed_vectors(merged), untouched)
    heads = heads_file(adapter)
    if heads:
        load_heads(merged, heads)
    return merged


def _check_tensor_names(adapter: str, stored: list[str], result: Any) -> set[str]:
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
    absent = {tower for tower, parts in _TOWERS.items() if not any(part in name for name in stored for part in parts)}
    lacking = [name for name in missing if not any(part in name for tower in absent for part in _TOWERS[tower])]
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
def _fixed_vectors(model: Any) -> _Vectors:
    """The vectors of both towers for one fixed input each."""
    model.eval()
    vision = model.config.vision_config
    pixels = torch.linspace(-1, 1, 3 * vision.image_size**2).view(1, 3, vision.image_size, vision.image_size)
    tokens = torch.arange(1, 9).view(1, 8) % model.config.text_config.vocab_size
    return {
        "image": model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output),
        "text": model.text_projection(model.text_model(input_ids=tokens).last_hidden_state),
    }
