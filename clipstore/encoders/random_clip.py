"""A CLIP of random weights, as a folder that the hub could have given: speed and equality do not ask for more."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel
from transformers.utils import logging

from clipstore.encoders.model_files import locate, tokenizer_files

_WHEEL = "open_clip_torch==3.3.0"  # carries the vocabulary of OpenAI's CLIP
_MEMBER = "open_clip/bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2
_START, _END = "<|startoftext|>", "<|endoftext|>"

_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}
_ENDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}  # 2: the end is the token of the highest id
_PREPROCESSING = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a CLIP: of both towers the width, the heads of attention and the layers."""

    dim: int
    text: tuple[int, int, int]
    vision: tuple[int, int, int]
    patch: int = 32
    pixels: int = 224


VIT_B_32 = Sizes(dim=512, text=(512, 8, 12), vision=(768, 12, 12))


def write_random_clip(folder: Path, *, sizes: Sizes = VIT_B_32, seed: int = 0, vocabulary: Path | None = None) -> Path:
    """Fill `folder` with a CLIP, its files spelled as those of openai/clip-vit-base-patch32.

    Without CLIP's `vocabulary` the tokenizer is the bundled model's, which cuts captions into other tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    config = CLIPConfig(
        projection_dim=sizes.dim,
        text_config=_tower(*sizes.text) | _TEXT | _ENDS | {"projection_dim": sizes.dim},
        vision_config=_tower(*sizes.vision)
        | {"hidden_act": "quick_gelu", "image_size": sizes.pixels, "patch_size": sizes.patch}
        | {"projection_dim": sizes.dim},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPModel(config).eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSING))
    if vocabulary:
        _write_tokenizer(folder, vocabulary)
    else:
        for file in tokenizer_files(locate("bundled:demo")):
            shutil.copy(file, folder)
    return folder


def clip_vocabulary() -> Path:
    """CLIP's own vocabulary of byte pairs, out of the wheel of open_clip_torch, which pip fetches once.

    Raises:
        OSError: pip cannot download it.
    """
    kept = Path(tempfile.gettempdir()) / "clipstore-vocabulary" / Path(_MEMBER).name
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as place:
            words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", place, _WHEEL]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            wheel = next(Path(place).glob("*.whl"), None)
            if wheel is None:
                message = f"pip cannot download {_WHEEL}: {answer.stderr.strip()[-200:]}"
                raise OSError(message)
            Path(zipfile.ZipFile(wheel).extract(_MEMBER, place)).replace(kept)
    return kept


def _tower(width: int, heads: int, layers: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
    }


def _write_tokenizer(folder: Path, vocabulary: Path) -> None:
    """vocab.json and merges.txt as OpenAI's."""
    with gzip.open(vocabulary, "rt", encoding="utf-8") as lines:
        merges = [line.split() for line in islice(lines, 1, _MERGES + 1)]
    letters = _letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    told_merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)])
    (folder / "merges.txt").write_text(told_merges + "\n", encoding="utf-8")
    told = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace",
        "bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


def _letters() -> list[str]:
    """A printable character for every byte, in the order of CLIP's vocabulary (bytes_to_unicode of its sources)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, plain), *(chr(256 + place) for place in range(256 - len(plain)))]
