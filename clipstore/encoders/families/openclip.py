"""OpenCLIP (Ilharco et al., 2021): a folder as OpenCLIP publishes it, converted to the CLIP classes of transformers.

Only a vision transformer with the built-in text tower is one; every other architecture is refused by name. Captions are
tokenized as transformers does: OpenCLIP's own tokenizer also repairs broken Unicode and HTML entities.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from PIL import Image

from clipstore.encoders.families.base import Config, Shape, Towers, loaded
from clipstore.encoders.families.clip import Clip
from clipstore.encoders.images import AnyPreprocessing, Preprocessing, channel_values
from clipstore.encoders.model_files import read_json
from clipstore.errors import ModelError

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"

_HEAD_WIDTH = 64  # of the image tower, if its configuration has none
_IS_SQUASH = {"shortest": False, "squash": True}  # by resize_mode
_INTERPOLATION = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Keys of the tables of model_cfg that are read, and those that may only have OpenCLIP's default.
_READ = {
    "model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias"},
    "vision_cfg": {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}
_DEFAULTS: Mapping[str, Any] = {
    "custom_text": False, "output_dict": False, "output_tokens": False, "attentional_pool": False,
    "attn_pooler_queries": 256, "attn_pooler_heads": 8, "no_ln_pre": False, "pool_type": ("tok", "argmax"),
    "final_ln_after_pool": False, "pos_embed_type": "learnable", "embed_cls": False, "pad_id": 0,
    "no_causal_mask": False, "proj_type": "linear", "proj_bias": False, "hf_proj_type": "mlp",
    "hf_pooler_type": "mean_pooler", "hf_model_pretrained": True, "timm_model_pretrained": False, "timm_pool": "avg",
    "timm_proj": "linear", "timm_proj_bias": False, "timm_drop": 0.0, "input_patchnorm": False, "block_type": None,
}  # fmt: skip

# Module of OpenCLIP -> module of transformers, for the parts that both have under one name each.
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_IGNORED = ("attn_mask", "logit_bias")


class OpenClip(Clip):
    """Vision transformers of OpenCLIP with its own text tower."""

    name = "openclip"
    title = "an OpenCLIP model"
    model_type = "openclip"
    model_keys = Clip.model_keys - {"transformers_weights"}
    parts: ClassVar = {  # by the names of OpenCLIP, and for adapters by those of transformers
        "image head": ("visual.proj", *Clip.parts["image head"]),
        "image backbone": ("visual.", *Clip.parts["image backbone"]),
        "text": (
            *("transformer.", "token_embedding.", "positional_embedding", "ln_final."),
            *Clip.parts["text"],
            "text_projection",
        ),
        "no vector": (*Clip.parts["no vector"], "attn_mask"),
    }

    def missing_file(self, folder: Path) -> str | None:
        if not (folder / WEIGHTS).is_file():
            return f"no {WEIGHTS} (weights in other formats are not read: convert them to safetensors)"
        if not any(all((folder / name).is_file() for name in names) for names in self.tokenizer_files):
            return (
                "no tokenizer.json, nor vocab.json with merges.txt (OpenCLIP's tokenizer is CLIP's: copy the files of "
                "openai/clip-vit-base-patch32)"
            )
        return None

    def config_file(self, folder: Path) -> Path:
        return folder / CONFIG

    def settings_files(self, folder: Path) -> list[Path]:
        return [folder / CONFIG]

    def weight_files(self, folder: Path) -> list[Path]:
        return [folder / WEIGHTS]

    def read_config(self, folder: Path) -> Config:
        """The configuration of the same model in transformers, and OpenCLIP's own as "open_clip".

        Raises:
            ModelError: it cannot be read, or describes another architecture.
        """
        file = folder / CONFIG
        model = _table(file, read_json(file), "model_cfg")
        vision, text = _table(file, model, "vision_cfg"), _table(file, model, "text_cfg")
        try:
            return _converted_config(model, vision, text)
        except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            message = f"{file} does not describe a CLIP: {type(error).__name__} {error}"
            raise ModelError(message) from error

    def read_preprocessing(self, folder: Path, towers: Towers) -> AnyPreprocessing:
        file, size = folder / CONFIG, self.size(towers, "vision", "image_size")
        settings = read_json(file).get("preprocess_cfg") or {}
        try:
            squash = _IS_SQUASH[settings.get("resize_mode", "shortest")]
            return Preprocessing(
                shortest_edge=None if squash else size,
                resize=(size, size) if squash else None,
                crop=(size, size),
                resample=int(_INTERPOLATION[settings.get("interpolation", "bicubic")]),
                scale=1 / 255,
                mean=channel_values(settings, "mean", _OPENAI_MEAN),
                std=channel_values(settings, "std", _OPENAI_STD, divides=True),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            message = f"preprocess_cfg in {file} does not describe how images are preprocessed: {error}"
            raise ModelError(message) from error

    def save_preprocessing(self, base: Path, folder: Path, preprocessing: AnyPreprocessing) -> None:
        assert isinstance(preprocessing, Preprocessing)
        height, width = preprocessing.crop
        size = {"shortest_edge": height} if preprocessing.resize is None else {"height": height, "width": width}
        settings = {
            "image_processor_type": "CLIPImageProcessor",
            "size": size,
            "crop_size": {"height": height, "width": width},
            "resample": preprocessing.resample,
            "rescale_factor": preprocessing.scale,
            "image_mean": preprocessing.mean,
            "image_std": preprocessing.std,
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2))

    def load_tokenizer(self, folder: Path) -> Any:
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)

    def expected_shapes(self, config: Config, towers: Towers) -> dict[str, Shape]:
        """By the names of OpenCLIP."""
        shapes = super().expected_shapes(config, towers)
        vision, text = (self.size(towers, tower, "num_hidden_layers") - 1 for tower in ("vision", "text"))
        last = {
            f"visual.transformer.resblocks.{vision}.mlp.c_fc.weight": (
                f"vision_model.encoder.layers.{vision}.mlp.fc1.weight"
            ),
            f"transformer.resblocks.{text}.mlp.c_fc.weight": f"text_model.encoder.layers.{text}.mlp.fc1.weight",
        }
        same = {theirs: shapes[ours] for theirs, ours in (_NAMES | last).items() if ours in shapes}
        return same | {theirs: shapes[ours][::-1] for theirs, ours in _PROJECTIONS.items()}

    def load(self, folder: Path, config: Config) -> tuple[Any, Sequence[str]]:
        from safetensors.torch import load_file
        from transformers import CLIPConfig, CLIPModel

        tensors = dict(_converted_tensors(load_file(folder / WEIGHTS)))
        return loaded(CLIPModel, CLIPConfig, None, config, attn_implementation="sdpa", state_dict=tensors)


_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def _table(file: Path, parent: Config, name: str) -> Config:
    """A table of open_clip_config.json, if the CLIP classes of transformers can compute what it describes.

    Raises:
        ModelError: the message names the key.
    """
    table = parent.get(name)
    if not isinstance(table, dict):
        message = f"{file} has no table {name}: use the file that belongs to the weights"
        raise ModelError(message)
    for key, value in table.items():
        known = _DEFAULTS.get(key)
        is_default = value is None or value == known or (isinstance(known, tuple) and value in known)
        if is_default or (
            key in _READ[name] and not (key == "layers" and isinstance(value, list))
        ):  # those of a ResNet
            continue
        message = (
            f"{file}: {key} = {str(value)[:60]} in {name}: of OpenCLIP's architectures, vision transformers with the "
            "built-in text tower are read; the vectors of others can be imported ('clipstore import')"
        )
        raise ModelError(message)
    return table


def _converted_config(model: Config, vision: Config, text: Config) -> Config:
    """The configuration of CLIPModel for the tables of open_clip_config.json, with OpenCLIP's defaults."""
    common = {"hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu", "layer_norm_eps": 1e-5}
    width, text_width = vision.get("width", 768), text.get("width", 512)
    return {
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "vision_config": common
        | {
            "hidden_size": width,
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // (vision.get("head_width") or _HEAD_WIDTH),
            "image_size": vision.get("image_size", 224),
            "patch_size": vision.get("patch_size", 16),
            "projection_dim": model["embed_dim"],
        },
        "text_config": common
        | {
            "hidden_size": text_width,
            "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)),
            "num_hidden_layers": text.get("layers", 12),
            "num_attention_heads": text.get("heads", 8),
            "max_position_embeddings": text.get("context_length", 77),
            "vocab_size": text.get("vocab_size", 49408),
            "eos_token_id": 2,  # as in OpenCLIP, the end token has the highest id
            "projection_dim": model["embed_dim"],
        },
        "open_clip": model,
    }


def _converted_tensors(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an OpenCLIP checkpoint by transformers' names; unknown ones keep theirs, and are refused."""
    for name, tensor in tensors.items():
        if name in _IGNORED:
            continue
        if name in _PROJECTIONS:
            yield _PROJECTIONS[name], tensor.T.contiguous()
        elif block := _BLOCK.fullmatch(name):
            layer = f"{'vision' if block[1] else 'text'}_model.encoder.layers.{block[2]}"
            yield from _converted_block(layer, block[3], tensor)
        else:
            module, _, parameter = name.rpartition(".")
            yield _NAMES.get(name) or f"{_NAMES.get(module, module)}.{parameter}", tensor


def _converted_block(layer: str, name: str, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of one block; query, key and value are one tensor in OpenCLIP."""
    module, _, parameter = name.rpartition(".")
    if name.startswith("attn.in_proj_"):
        for projection, part in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{layer}.self_attn.{projection}_proj.{name.removeprefix('attn.in_proj_')}", part.contiguous()
    else:
        yield f"{layer}.{_BLOCK_NAMES.get(module, module)}.{parameter}", tensor
