"""BLIP's image-text matching: the score of a pair by the text encoder with cross-attention and its head of two classes.

The recipe is that of BLIP's retrieval evaluation (salesforce/BLIP, train_retrieval.py): a text is truncated to 35
tokens, its first token is replaced by [ENC], and the score is the logit of class 1, "matched". transformers' own
`BlipForImageTextRetrieval.forward` keeps [CLS] and encodes the image again for every text; here its parts are called:

- An image is encoded once. The keys and values of every cross-attention depend on the image alone: they are computed
  once for all of its texts, whose queries attend to them together, as one long text would.
- The state of the first token decides, so the last layer computes that token alone.
- Padding is masked, so that texts are padded to the longest one of their batch and not to 35.

Weights and modules are transformers' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from clipstore.captions import TOO_LONG
from clipstore.device import unallocated_memory
from clipstore.encoders.encoder import DTYPES, bytes_per_token
from clipstore.encoders.images import preprocess
from clipstore.encoders.loading import LoadedModel, move
from clipstore.encoders.normalization import Normalizer
from clipstore.encoders.probe import CAPTION, probe_image
from clipstore.encoders.tokenization import tokenize
from clipstore.errors import ModelError

MAX_TOKENS = 35  # of a text, [ENC] and [SEP] included
ENCODER_TOKEN = "[ENC]"
_BATCH_TOKENS = {"cpu": 2048, "cuda": 16_384}  # tokens of texts at once
_CUDA_WORKERS = 2  # one image is prepared and copied while another is scored

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageKeys:
    """The keys and values of one image in every cross-attention: (1, heads, tokens, width) for each layer."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]


class BlipMatcher:
    """The matching head of a BLIP on one device at one precision.

    Attributes:
        encoder_token: the id of [ENC].
        workers: the number of threads that score images in parallel best: on a CPU one per core.
    """

    def __init__(self, loaded: LoadedModel, *, precision: str = "fp32", device: str = "cpu") -> None:
        blip, tokenizer, preprocessing = loaded.model, loaded.tokenizer, loaded.settings.preprocessing
        if not blip.config.text_config.is_decoder:
            message = "the text encoder of this BLIP has no cross-attention (is_decoder is false): it cannot rerank"
            raise ModelError(message)
        self.preprocessing, self.device = preprocessing, torch.device(device)
        self.encoder_token = encoder_token(tokenizer, blip.config.text_config)
        self._family, self._dtype = loaded.settings.family, DTYPES[precision]
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else _CUDA_WORKERS
        self._tokenizer = tokenizer
        self._blip = move(blip, self.device, self._dtype)
        self._normalize = Normalizer(preprocessing, self.device, self._dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(weight.nbytes for weight in self._blip.parameters())

    def batch_tokens(self, memory: int) -> int:
        """Tokens of texts at once within `memory` bytes, weights excluded; at least those of one text.

        A GPU whose free memory is less gives the limit. Every worker has one image in memory: its activations in its
        own tower, then its keys and values, for which the larger part is left.
        """
        text, vision = self._blip.config.text_config, self._blip.config.vision_config
        row, size = (vision.image_size // vision.patch_size) ** 2 + 1, self._dtype.itemsize
        per_token, per_image_token = (
            bytes_per_token(tower.hidden_size, tower.intermediate_size, tower.num_attention_heads, row, size)
            for tower in (text, vision)
        )
        of_image = row * max(per_image_token, 2 * text.num_hidden_layers * text.hidden_size * size)
        fitting = (min(memory, unallocated_memory(self.device)) / self.workers - of_image) // per_token
        return int(max(MAX_TOKENS, min(_BATCH_TOKENS.get(self.device.type, 2048), fitting)))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, at most 35 each: [ENC], the words, [SEP].

        Raises:
            ModelError: a text is too long to be tokenized.
        """
        ids = tokenize(self._family, self._tokenizer, list(texts), MAX_TOKENS).ids
        if not all(ids):
            message = f"a caption cannot be scored: {TOO_LONG}"
            raise ModelError(message)
        return [[self.encoder_token, *text[1:]] for text in ids]

    @torch.inference_mode()
    def encode_image(self, pixels: NDArray[np.uint8]) -> ImageKeys:
        """The keys and values of one image of uint8 pixels (height, width, 3)."""
        values = self._normalize(torch.from_numpy(pixels[None].copy()))
        states = self._blip.vision_model(pixel_values=values).last_hidden_state
        attentions = [layer.crossattention.self for layer in self._blip.text_encoder.encoder.layer]
        return ImageKeys(
            keys=[_heads(attention, attention.key(states)) for attention in attentions],
            values=[_heads(attention, attention.value(states)) for attention in attentions],
        )

    @torch.inference_mode()
    def scores(self, image: ImageKeys, ids: Sequence[Sequence[int]]) -> Floats:
        """The logits (B,) of the class "matched" of one image with a batch of texts."""
        return _to_numpy(self._blip.itm_head(self._states(image, ids))[:, 1])

    @torch.inference_mode()
    def probe(self) -> Floats:
        """The state (D,) before the head for a fixed image and a fixed caption."""
        image = self.encode_image(preprocess(probe_image(), self.preprocessing))
        return cast("Floats", _to_numpy(self._states(image, self.tokenize([CAPTION])))[0])

    def _states(self, image: ImageKeys, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """The states (B, D) of the first token of each text."""
        lengths = [len(text) for text in ids]
        longest = max(lengths)
        tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in ids], device=self.device)
        bias = None
        if min(lengths) < longest:
            ends = torch.tensor(lengths, device=self.device)
            is_padding = torch.arange(longest, device=self.device) >= ends[:, None]
            bias = torch.zeros(is_padding.shape, dtype=self._dtype, device=self.device)
            bias = bias.masked_fill_(is_padding, -torch.inf)[:, None, None]
        hidden = self._blip.text_encoder.embeddings(input_ids=tokens)
        layers = self._blip.text_encoder.encoder.layer
        for number, (layer, key, value) in enumerate(zip(layers, image.keys, image.values, strict=True), 1):
            hidden = _run_layer(layer, hidden, bias, key, value, first_only=number == len(layers))
        return cast("torch.Tensor", hidden[:, 0])


def encoder_token(tokenizer: Any, text_config: Any) -> int:
    """The id of [ENC], by the tokenizer and the configuration, which must agree.

    BLIP adds [DEC] and then [ENC] to BERT's vocabulary (salesforce/BLIP, models/blip.py, `init_tokenizer`). The
    configuration of transformers has [DEC] as `bos_token_id`, and counts both in `vocab_size`. Its conversion takes
    BERT's tokenizer, which lacks both.

    Raises:
        ModelError: tokenizer and configuration do not fit.
    """
    start, size, words = text_config.bos_token_id, text_config.vocab_size, len(tokenizer)
    stated = tokenizer.get_vocab().get(ENCODER_TOKEN)
    token = words + 1 if stated is None else stated
    fits = start is not None and token == start + 1 and max(token + 1, words) <= size
    if not fits or (stated is None and start != words):
        where = "has no [ENC]" if stated is None else f"has [ENC] as {stated}"
        message = (
            f"the token [ENC] of the matching head is unknown: the tokenizer has {words:,} words and {where}, and "
            f"text_config in config.json has bos_token_id ([DEC]) {start} and vocab_size {size}; [ENC] must follow "
            "[DEC], which follows the words: use the tokenizer and the configuration that belong to the weights"
        )
        raise ModelError(message)
    return int(token)


def _run_layer(
    layer: Any,
    hidden: torch.Tensor,
    bias: torch.Tensor | None,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    first_only: bool,
) -> torch.Tensor:
    """The output states (B, T, D) of a layer; with `first_only` those of the first token, (B, 1, D)."""
    own = layer.attention.self
    queries = hidden[:, :1] if first_only else hidden
    query, keys, values = _heads(own, own.query(queries)), _heads(own, own.key(hidden)), _heads(own, own.value(hidden))
    mixed = scaled_dot_product_attention(query, keys, values, attn_mask=bias)
    hidden = layer.attention.output(mixed.transpose(1, 2).flatten(2), queries)
    cross = layer.crossattention.self
    flat = _heads(cross, cross.query(hidden.flatten(0, 1)[None]))  # all texts attend to the same keys
    mixed = scaled_dot_product_attention(flat, key, value).transpose(1, 2).flatten(2)
    hidden = layer.crossattention.output(mixed.view_as(hidden), hidden)
    return cast("torch.Tensor", layer.output(layer.intermediate(hidden), hidden))


def _to_numpy(tensor: torch.Tensor) -> Floats:
    return cast("Floats", tensor.float().cpu().numpy())


def _heads(attention: Any, states: torch.Tensor) -> torch.Tensor:
    """States (B, T, D) as (B, heads, T, D / heads)."""
    return states.view(*states.shape[:2], attention.num_attention_heads, -1).transpose(1, 2)
