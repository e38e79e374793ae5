"""A model on a device: two towers that encode pixels and texts, with vectors in float32.

What differs between families of models is in `families`; batches, precision and devices are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from clipstore.device import unallocated_memory
from clipstore.encoders.families.base import Pixels
from clipstore.encoders.images import preprocess
from clipstore.encoders.loading import LoadedModel, move
from clipstore.encoders.normalization import Normalizer
from clipstore.encoders.probe import CAPTION, probe_image
from clipstore.encoders.tokenization import TokenizedTexts, contains_special_token, tokenize
from clipstore.errors import ModelError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Tokens per batch. On a CPU small batches stay in its caches and are as fast as large ones; a GPU needs thousands.
_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
_CUDA_WORKERS = 2  # one batch is prepared and copied while another is computed

Floats = NDArray[np.float32]


class Encoder:
    """A model on one device at one precision.

    `image_features`, `project` and `text_vectors` give arrays for the store; `encode_image`, `project_image` and
    `encode_text` give tensors with gradients for training.

    Attributes:
        workers: the number of threads that run batches in parallel best. On a CPU this is one per core, each computing
            its own batch: no core waits for another after every product, and decoding threads slow down one worker, not
            all.
        has_head: whether image vectors are a projection of features. Otherwise the features are the vectors.
    """

    def __init__(
        self, loaded: LoadedModel, *, precision: str = "fp32", device: str = "cpu", compiled: bool = False
    ) -> None:
        self.preprocessing = loaded.settings.preprocessing
        self.device = torch.device(device)
        self._dtype = DTYPES[precision]
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else _CUDA_WORKERS
        self._model = move(loaded.model, self.device, self._dtype)
        self._family, self._towers = loaded.settings.family, loaded.settings.towers
        self._encode_image, self._encode_text = self._family.encode_image, self._family.encode_text
        if compiled:
            self._encode_image = torch.compile(self._encode_image)
            self._encode_text = torch.compile(self._encode_text, dynamic=True)
        self._tokenizer = loaded.tokenizer
        self.has_head = bool(self._family.features_dim(self._towers))
        self._longest_text = self._family.longest_text(self._towers)
        self._normalize = Normalizer(self.preprocessing, self.device, self._dtype)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on the device."""
        return sum(weight.nbytes for weight in self._model.parameters())

    def batch_tokens(self, tower: str, memory: int) -> int:
        """Tokens per batch of a tower within `memory` bytes, weights excluded; at least those of one item.

        A GPU whose free memory is less gives the limit. Every worker has one batch in memory. The pixels of images
        take room besides: first their bytes, values in float32 and inputs, then the inputs alone.
        """
        side = "vision" if tower == "image" else "text"
        heads, width, inner = (
            self._family.size(self._towers, side, key)
            for key in ("num_attention_heads", "hidden_size", "intermediate_size")
        )
        longest = self.image_tokens if tower == "image" else self._family.row_tokens(self._longest_text)
        values = 3 * self.preprocessing.most_pixels // longest if tower == "image" else 0
        size = self._dtype.itemsize
        in_tower = values * size + bytes_per_token(width, inner, heads, longest, size)
        largest = max(in_tower, values * (1 + 4 + size))
        fitting = min(memory, unallocated_memory(self.device)) // (largest * self.workers)
        return int(max(longest, min(_BATCH_TOKENS.get(self.device.type, 512), fitting)))

    @property
    def image_tokens(self) -> int:
        """Tokens per image; the largest number where images differ."""
        return self._family.image_tokens(self._towers, self.preprocessing)

    def text_batches(self, ids: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
        """The numbers of texts in batches of at most `tokens` tokens, or of one text."""
        return self._family.text_batches(ids, tokens, self._longest_text)

    def tokenize(self, texts: list[str]) -> TokenizedTexts:
        """Token ids by the model's own tokenizer, start and end tokens included.

        Raises:
            ModelError: the model has no embedding of a token.
        """
        tokenized = tokenize(self._family, self._tokenizer, texts, self._longest_text)
        largest, vocabulary = (
            max((max(ids) for ids in tokenized.ids if ids), default=0),
            self._family.size(self._towers, "text", "vocab_size"),
        )
        if largest >= vocabulary:
            message = (
                f"the tokenizer gives the token {largest}, and the model's config.json has a vocab_size of "
                f"{vocabulary}: use the tokenizer that belongs to the weights"
            )
            raise ModelError(message)
        return tokenized

    def contains_special_token(self, text: str) -> bool:
        """Whether a text contains a special token such as "<|endoftext|>" as text, which is encoded as plain text."""
        return contains_special_token(self._family, self._tokenizer, text)

    @torch.inference_mode()
    def image_features(self, pixels: Pixels) -> Floats:
        """Backbone features of images of uint8 pixels (height, width, 3): float32 (B, features_dim)."""
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
        pixels = preprocess(probe_image(), self.preprocessing).copy()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for one item, synchronising threads takes longer than computing
        try:
            features = self._image_features([pixels], self._family.encode_image)
            texts = self._text_vectors(self.tokenize([CAPTION]).ids, self._family.encode_text)
            return {"image": self.project(features)[0], "backbone": features[0], "text": texts[0]}
        finally:
            torch.set_num_threads(threads)

    def _image_features(self, pixels: Pixels, encode: Callable[..., torch.Tensor]) -> Floats:
        inputs = self._family.image_inputs(
            self.preprocessing, pixels, lambda batch: self._normalize(self._to_device(_tensor(batch)))
        )
        return _to_numpy(encode(self._model, *inputs))

    def _text_vectors(self, ids: Sequence[Sequence[int]], encode: Callable[..., torch.Tensor]) -> Floats:
        arrays = self._family.text_inputs(self._model, ids, self._padding)
        return _to_numpy(encode(self._model, *(self._to_device(torch.from_numpy(array)) for array in arrays)))

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Backbone features (B, features_dim) of uint8 pixels (B, height, width, 3), with gradients."""
        inputs = self._family.image_inputs(
            self.preprocessing, list(pixels.numpy()), lambda batch: self._normalize(_tensor(batch))
        )
        return self._family.train_image(self._model, *inputs)

    def project_image(self, features: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, dim), not normalised, of features (B, features_dim), with gradients."""
        return self._family.project_image(self._model, features.to(self.device, self._dtype))

    def encode_text(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Text vectors (B, dim), not normalised, of a batch of token ids, with gradients."""
        return self._family.train_text(self._model, ids, self._padding)

    @property
    def _padding(self) -> int:
        return int(self._tokenizer.pad_token_id or 0)

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; copies to a GPU are asynchronous, from pinned memory."""
        source = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return source.to(self.device, non_blocking=True)


def bytes_per_token(width: int, inner: int, heads: int, row: int, size: int) -> int:
    """The bytes of a token's activations in a layer, where it attends to `row` tokens, in numbers of `size` bytes.

    In attention there are six states (those that come in, normalised, and projected) and what mixes them. Where torch
    has no fused kernel, these are eight copies in float32 and rows of scores for each head before and after the
    softmax; in transformers' plain attention the rows are three, and not in float32. In the MLP there are three states,
    and its inner layer before, within and after the activation.
    """
    mixing = max((8 * width + 2 * heads * row) * 4, (width + 3 * heads * row) * size)
    return max(6 * width * size + mixing, (3 * width + 3 * inner) * size)


def _tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels as a tensor; those that Pillow owns are copied, since torch has no read-only tensors."""
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def _to_numpy(tensor: torch.Tensor) -> Floats:
    return cast("Floats", tensor.float().cpu().numpy())
