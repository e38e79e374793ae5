"""Model folders of every family, with random weights: small, or in the sizes of published checkpoints.

Tokenizers are trained on the documentation, with the classes and special tokens of published checkpoints.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from blip_folder import BASE as BLIP_BASE
from blip_folder import write_random_blip
from clip_folder import build_clip, edit_json
from clip_vocabulary import write_clip_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from clipstore.encoders.random_clip import Sizes, write_random_clip

WIDTH = 32
_SMALL = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
_HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@cache
def _texts() -> tuple[str, ...]:
    """English sentences: those of the documentation."""
    pages = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
    return tuple(line for page in pages for line in page.read_text().splitlines() if line.strip())


def _write(folder: Path, model: Any, preprocessing: dict[str, Any]) -> Path:
    """A random model with weights far from their initial values, and its preprocessing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "logit" not in name:
                scale = 0.3 if weight.ndim > 1 else 0.1
                weight.add_(
                    torch.randn(weight.shape, generator=generator), alpha=scale / max(1, weight.shape[-1]) ** 0.5
                )
    model.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def _seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def write_siglip(folder: Path, *, pixels: int = 32, **towers: dict[str, Any]) -> Path:
    """SigLIP with its SentencePiece tokenizer, which lowers the case and removes punctuation itself."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_sentencepiece(folder)
    text = _SMALL | {"vocab_size": vocabulary, "num_attention_heads": 4} | towers.get("text", {})
    vision = _SMALL | {"image_size": pixels, "patch_size": 8, "num_hidden_layers": 3} | towers.get("vision", {})
    model = _seeded(lambda: SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
    size = {"height": vision["image_size"], "width": vision["image_size"]}
    return _write(folder, model, _HALF | {"image_processor_type": "SiglipImageProcessor", "resample": 3, "size": size})


def write_siglip2(folder: Path, *, pixels: int = 32, **towers: dict[str, Any]) -> Path:
    """SigLIP 2 of fixed resolution, with a tokenizer that keeps upper case, as its checkpoints name one."""
    write_siglip(folder, pixels=pixels, **towers)
    (folder / "spiece.model").unlink()
    write_gemma_tokenizer(folder)
    return folder


def write_naflex(folder: Path, *, patches: int = 16, **towers: dict[str, Any]) -> Path:
    """NaFlex SigLIP 2."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_gemma_tokenizer(folder)
    text = _SMALL | {"vocab_size": vocabulary} | towers.get("text", {})
    vision = _SMALL | {"num_patches": 16, "patch_size": 8, "num_hidden_layers": 3} | towers.get("vision", {})
    model = _seeded(lambda: Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)))
    settings = {"image_processor_type": "Siglip2ImageProcessor", "resample": 2, "max_num_patches": patches}
    return _write(folder, model, _HALF | settings | {"patch_size": vision["patch_size"]})


def write_blip(folder: Path) -> Path:
    """A small BLIP."""
    write_random_blip(folder)
    return folder


def write_openclip(folder: Path, *, small: bool = True, quick_gelu: bool = False) -> Path:
    """A CLIP as OpenCLIP publishes it: renamed tensors, and query, key and value as one."""
    clip = build_clip(folder.parent / f"{folder.name}-clip", small=small)
    config = json.loads((clip / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    folder.mkdir(parents=True, exist_ok=True)
    for file in clip.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "merges", "special")):
            shutil.copy(file, folder)
    model = {
        "embed_dim": config["projection_dim"],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "patch_size": vision["patch_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"],
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
        },
    }
    if quick_gelu:
        model["quick_gelu"] = True
    settings = {"model_cfg": model, "preprocess_cfg": {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    save_file(openclip_tensors(load_file(clip / "model.safetensors")), folder / "open_clip_model.safetensors")
    shutil.rmtree(clip)
    return folder


def openclip_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a CLIPModel by the names of OpenCLIP, as in its published table of conversions."""
    renamed: dict[str, torch.Tensor] = {
        "visual.proj": tensors["visual_projection.weight"].T.contiguous(),
        "text_projection": tensors["text_projection.weight"].T.contiguous(),
        "visual.class_embedding": tensors["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": tensors["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": tensors["vision_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "logit_scale": tensors["logit_scale"],
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for end in ("weight", "bias"):
        renamed |= {f"{theirs}.{end}": tensors[f"{ours}.{end}"] for theirs, ours in norms.items()}
        for tower, prefix in (("vision", "visual."), ("text", "")):
            number = 0
            while (layer := f"{tower}_model.encoder.layers.{number}") and f"{layer}.mlp.fc1.{end}" in tensors:
                block = f"{prefix}transformer.resblocks.{number}"
                parts = [tensors[f"{layer}.self_attn.{part}_proj.{end}"] for part in "qkv"]
                renamed[f"{block}.attn.in_proj_{end}"] = torch.cat(parts)
                for theirs, ours in (
                    *(("ln_1", "layer_norm1"), ("attn.out_proj", "self_attn.out_proj"), ("ln_2", "layer_norm2")),
                    *(("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")),
                ):
                    renamed[f"{block}.{theirs}.{end}"] = tensors[f"{layer}.{ours}.{end}"]
                number += 1
    return renamed


def write_sentencepiece(folder: Path, *, vocabulary: int = 500) -> int:
    """SigLIP's tokenizer with a small vocabulary; its size."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_texts()), model_writer=model, vocab_size=vocabulary, bos_id=-1, eos_id=1, unk_id=2,
        pad_id=-1, add_dummy_prefix=False, minloglevel=2, user_defined_symbols=["<pad>"],
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "do_lower_case": True})
    )
    return vocabulary


def write_gemma_tokenizer(folder: Path, *, vocabulary: int = 500) -> int:
    """A tokenizer like SigLIP 2's: byte-pair encoding of text with its case, an end token, padding on the right."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    texts = [*_texts(), *(text.upper() for text in _texts())]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        padding_side="right", model_max_length=64,
    )  # fmt: skip
    fast.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def write_vit_l_14_336(folder: Path) -> Path:
    """A CLIP of the sizes of openai/clip-vit-large-patch14-336."""
    sizes = Sizes(dim=768, text=(768, 12, 12), vision=(1024, 16, 24), patch=14, pixels=336)
    with tempfile.TemporaryDirectory() as temporary:
        write_random_clip(folder, sizes=sizes, tokenizer=write_clip_tokenizer(Path(temporary)))
    edit_json(folder / "preprocessor_config.json", size=336, crop_size=336)
    return folder


def write_siglip2_b_16(folder: Path) -> Path:
    """A SigLIP 2 of the sizes of google/siglip2-base-patch16-224."""
    return write_siglip2(folder, pixels=224, text=_BASE | {"vocab_size": 256_000}, vision=_BASE | {"patch_size": 16})


def write_blip_base(folder: Path) -> Path:
    """A BLIP of the sizes of Salesforce/blip-itm-base-coco."""
    write_random_blip(folder, pixels=(384, 16), sizes=BLIP_BASE, dim=256)
    return folder


FULL: dict[str, Callable[[Path], Path]] = {
    "clip": write_vit_l_14_336,
    "siglip2": write_siglip2_b_16,
    "blip": write_blip_base,
}
SMALL: dict[str, Callable[[Path], Path]] = {
    "openclip": write_openclip,
    "siglip": write_siglip,
    "siglip2": write_siglip2,
    "naflex": write_naflex,
    "blip": write_blip,
}
