"""The CLIP family: transformers' CLIPModel as two towers that encode pixels and texts, with vectors in float32.

Vectors for the store use clipstore's forward pass (see `forward`); tensors with gradients use transformers'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.encoders import forward
from clipstore.encoders.images import preprocess
from clipstore.encoders.loading import LoadedClip
from clipstore.encoders.packing import pack, row_tokens
from clipstore.encoders.probe import CAPTION, probe_image
from clipstore.encoders.tokenization import TokenizedTexts, contains_special_token, tokenize
from clipstore.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Tokens per batch. On a CPU small batches stay in its caches and are as fast as large ones; a GPU needs thousands.
_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
_CUDA_WORKERS = 2  # one batch is prepared and copied while another is computed

_LEGACY_EOS = 2  # the eos_token_id of old configurations; the end token is then the one with the highest id

Floats = NDArray[np.float32]


class ClipEncoder:
    """A CLIP model on one device at one precision.

    `image_features`, `project` and `text_vectors` give arrays for the store; `encode_image`, `project_image` and
    `encode_text` give tensors with gradients for training.

    Attributes:
        workers: the number of threads that run batches in parallel best. On a CPU this is one per core, each computing
            its own batch: no core waits for another after every product, and decoding threads slow down one worker, not
            all.
    """

    def __init__(
        self, loaded: LoadedClip, *, precision: str = "fp32", device: str = "cpu", compiled: bool = False
    ) -> None:
        self.preprocessing = loaded.preprocessing
        self.device = torch.device(device)
        self._dtype = DTYPES[precision]
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else _CUDA_WORKERS
        self._model = loaded.clip.eval().requires_grad_(requires_grad=False).to(self.device, self._dtype)
        self._encode_image, self._encode_text = forward.encode_image, forward.encode_text
        if compiled:
            self._encode_image = torch.compile(forward.encode_image)
            self._encode_text = torch.compile(forward.encode_text, dynamic=True)
        self._tokenizer = loaded.tokenizer
        self._max_tokens = int(self._model.config.text_config.max_position_embeddings)
        # (pixels * scale - mean) / std as one product and one difference
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        self._factor = self.preprocessing.scale / std
        self._shift = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1) / std

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(weight.nbytes for weight in self._model.parameters())

    def batch_tokens(self, tower: str, memory: int) -> int:
        """Tokens per batch of a tower within `memory` bytes, weights excluded; at least those of one item.

        A token's activations are its hidden state, the three projections, their mixture, the inner layer of the MLP
        (twice, before and after its activation), and per head a row of attention scores, before and after the softmax.
        Every worker has one batch in memory.
        """
        settings = getattr(self._model.config, "vision_config" if tower == "image" else "text_config")
        longest = self.image_tokens if tower == "image" else row_tokens(self._max_tokens)
        attention = 2 * settings.num_attention_heads * longest
        per_token = 5 * settings.hidden_size + 2 * settings.intermediate_size + attention
        fitting = memory // int(per_token * self._dtype.itemsize * self.workers)
        return max(longest, min(_BATCH_TOKENS.get(self.device.type, 512), fitting))

    @property
    def image_tokens(self) -> int:
        """Tokens per image: its patches and the pooled token."""
        settings = self._model.config.vision_config
        return int(settings.image_size // settings.patch_size) ** 2 + 1

    def tokenize(self, texts: list[str]) -> TokenizedTexts:
        """Token ids by the model's own tokenizer, start and end tokens included.

        Raises:
            ModelError: the model has no embedding of a token.
        """
        tokenized = tokenize(self._tokenizer, texts, self._max_tokens)
        largest = max((max(ids) for ids in tokenized.ids if ids), default=0)
        if largest >= self._model.config.text_config.vocab_size:
            message = (
                f"the tokenizer gives the token {largest}, and the model's config.json has a vocab_size of "
                f"{self._model.config.text_config.vocab_size}: use the tokenizer that belongs to the weights"
            )
            raise ModelError(message)
        return tokenized

    def contains_special_token(self, text: str) -> bool:
        """Whether a text contains a special token such as "<|endoftext|>" as text, which is encoded as plain text."""
        return contains_special_token(self._tokenizer, text)

    @torch.inference_mode()
    def image_features(self, pixels: NDArray[np.uint8]) -> Floats:
        """Backbone features of uint8 pixels (B, height, width, 3): float32 (B, features_dim)."""
        return self._image_features(pixels, self._encode_image)

    @torch.inference_mode()
    def project(self, features: Floats) -> Floats:
        """Image vectors, not normalised, of features (B, features_dim): float32 (B, dim)."""
        return _to_numpy(self.project_image(torch.from_numpy(features)))

    @torch.inference_mode()
    def text_vectors(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Text vectors, not normalised, of a batch of token ids: float32 (B, dim).

        Raises:
            ModelError: a text has no end token.
        """
        return self._text_vectors(ids, self._encode_text)

    @torch.inference_mode()
    def probe(self) -> dict[str, Floats]:
        """Vectors (dim,) of a fixed image and a fixed caption, by tower, and the image's features as "backbone".

        Computed without torch's compiler, which would compile for a batch of one.
        """
        pixels = preprocess(probe_image(), self.preprocessing)[None].copy()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for one item, synchronising threads takes longer than computing
        try:
            features = self._image_features(pixels, forward.encode_image)
            texts = self._text_vectors(self.tokenize([CAPTION]).ids, forward.encode_text)
            return {"image": self.project(features)[0], "backbone": features[0], "text": texts[0]}
        finally:
            torch.set_num_threads(threads)

    def _image_features(self, pixels: NDArray[np.uint8], encode: Callable[..., torch.Tensor]) -> Floats:
        values = self._normalize(self._to_device(torch.from_numpy(pixels)))
        return _to_numpy(encode(self._model.vision_model, values))

    def _text_vectors(self, ids: Sequence[Sequence[int]], encode: Callable[..., torch.Tensor]) -> Floats:
        packed = pack([text[: self._end_position(text) + 1] for text in ids])
        arrays = (packed.tokens, packed.positions, packed.attends, packed.ends)
        states = encode(self._model.text_model, *(self._to_device(torch.from_numpy(array)) for array in arrays))
        return _to_numpy(self._model.text_projection(states))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Backbone features (B, features_dim) of uint8 pixels (B, height, width, 3), with gradients."""
        return cast("torch.Tensor", self._model.vision_model(pixel_values=self._normalize(pixels)).pooler_output)

    def project_image(self, features: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, dim), not normalised, of features (B, features_dim), with gradients."""
        return cast("torch.Tensor", self._model.visual_projection(features.to(self.device, self._dtype)))

    def encode_text(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Text vectors (B, dim), not normalised, of a batch of token ids, with gradients."""
        longest = max(map(len, ids))
        padding = self._tokenizer.pad_token_id
        batch = self._to_device(torch.tensor([[*text, *[padding] * (longest - len(text))] for text in ids]))
        states = self._model.text_model(input_ids=batch).pooler_output
        return cast("torch.Tensor", self._model.text_projection(states))

    def _normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Input of the vision tower, (B, 3, height, width), from uint8 pixels (B, height, width, 3)."""
        # permute changes the shape alone: values stay in channels-last memory format, which suits convolutions
        batch = pixels.to(self.device).permute(0, 3, 1, 2).float().mul_(self._factor).sub_(self._shift)
        return batch.to(self._dtype)

    def _end_position(self, ids: Sequence[int]) -> int:
        """The position of a text's pooled token: its first end token, as in transformers."""
        end = self._model.config.text_config.eos_token_id
        if end == _LEGACY_EOS:
            end = max(ids)
        if end not in ids:
            message = (
                f"the model's config.json has the end token {end}, and its tokenizer gives {list(ids)[:9]}: use the "
                "tokenizer that belongs to the weights"
            )
            raise ModelError(message)
        return ids.index(end)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; copies to a GPU are asynchronous, from pinned memory."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def _to_numpy(tensor: torch.Tensor) -> Floats:
    return cast("Floats", tensor.float().cpu().numpy())
