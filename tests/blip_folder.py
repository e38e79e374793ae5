"""BLIP folders in Hugging Face format, with random weights and BERT's tokenizer over a small vocabulary."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForImageTextRetrieval

_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = ["the", "of", "two", "red", "blue", "green", "circle", "square", "man", "woman", "dog", "street", "on", "with"]
_PIECES = [*string.ascii_lowercase, *string.digits, *".,'-"]
VOCABULARY = [*_SPECIAL, *_PIECES, *(f"##{piece}" for piece in string.ascii_lowercase + string.digits), *_WORDS]

# The mean and standard deviation of BLIP's pixels.
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def write_random_blip(
    folder: Path,
    *,
    seed: int = 0,
    pixels: tuple[int, int] = (32, 8),
    sizes: Mapping[str, int] = SMALL,
    words: Sequence[str] = (),
    dim: int = 16,
) -> BlipForImageTextRetrieval:
    """Write a BLIP and return it.

    `pixels` are the sides of an image and of a patch, `sizes` those of both towers; `words` are added to the tokenizer.
    Weights are larger than those of a new model, so that scores differ: its image tower has 1e-10.
    """
    vocabulary = write_tokenizer(folder, words=words)
    spread = 1 / sizes["hidden_size"] ** 0.5
    text: dict[str, Any] = {"vocab_size": vocabulary + 2, "bos_token_id": vocabulary, "sep_token_id": 3}
    text |= {"max_position_embeddings": 64, "initializer_range": spread, "pad_token_id": 0, **sizes}
    vision = {"image_size": pixels[0], "patch_size": pixels[1], "initializer_range": spread, **sizes}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=dim)
        model = BlipForImageTextRetrieval(config).eval()
        with torch.no_grad():  # biases and the position embeddings are zero in a new model
            for name, weight in model.named_parameters():
                if name.endswith(("bias", "position_embedding", "class_embedding")):
                    weight.normal_(std=spread)
    model.save_pretrained(folder)
    size = {"height": pixels[0], "width": pixels[0]}
    preprocessor = {"image_processor_type": "BlipImageProcessor", "size": size, "do_resize": True, "resample": 3}
    preprocessor |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    preprocessor |= {"image_mean": _MEAN, "image_std": _STD, "do_convert_rgb": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return model


def write_tokenizer(folder: Path, *, words: Sequence[str] = (), added: Mapping[str, int] | None = None) -> int:
    """Write BERT's tokenizer with a small vocabulary; its size. `added` are further special tokens with their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = list(dict.fromkeys([*VOCABULARY, *words]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    settings: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    settings |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    settings |= {"mask_token": "[MASK]"}
    if added:
        shared = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
        tokens = {str(number): {"content": token, **shared} for token, number in added.items()}
        known = {str(number): {"content": token, **shared} for number, token in enumerate(_SPECIAL)}
        settings |= {"added_tokens_decoder": known | tokens, "additional_special_tokens": list(added)}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)
