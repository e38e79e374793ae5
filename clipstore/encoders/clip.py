"""The CLIP family: transformers' own CLIPModel behind two towers that take pixels and texts and give float32.

Vectors for the store go through a forward pass of our own (see forward); tensors with gradients through transformers'.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from peft import PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel
from transformers.utils import logging

from clipstore.encoders import forward
from clipstore.encoders.fingerprint_inputs import longest_text
from clipstore.encoders.images import Preprocessing, preprocess, read_preprocessing
from clipstore.encoders.model_files import adapter_files, heads_file, locate, preprocessor_file
from clipstore.encoders.packing import pack, row_tokens
from clipstore.encoders.probe import CAPTION, probe_image
from clipstore.errors import ModelError
from clipstore.records import Model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Tokens that go through a tower at once. A CPU is as fast with few, which stay in its caches; a GPU wants thousands.
_BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}
_CUDA_WORKERS = 2  # one batch is prepared and fetched while another computes

_OLD_END = 2  # what old configurations call the end token; there it is the token of the highest id

# What mallopt(3) of the GNU C library takes, and how much: blocks up to its largest threshold come from the heap, and
# a gigabyte of freed heap stays with the process.
_TRIM_THRESHOLD, _KEPT_BYTES = -1, 2**30
_MMAP_THRESHOLD, _LARGEST_BLOCK = -3, 32 * 2**20

# What transformers and PEFT raise for files that do not fit, beside their own errors.
_LOAD_ERRORS = (
    *(OSError, ValueError, RuntimeError, TypeError, AttributeError, LookupError, ImportError, AssertionError),
    *(SafetensorError, StrictDataclassError),
)
_NAMED = 6  # tensors that a message names
_SHARED = (
    "vblora_vector_bank",
    "prompt_encoder",
    ".tinylora_v.",
    ".unilora_theta_d.",
)  # PEFT saves them elsewhere, once
_TOWERS = {"image": ("vision_model.", "visual_projection"), "text": ("text_model.", "text_projection")}

Floats = NDArray[np.float32]
_Outputs = dict[str, torch.Tensor]  # by tower


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Tokenized texts: their token ids, each cut to what the model reads, and which of them were cut."""

    ids: list[list[int]]
    overlong: list[bool]

    @property
    def cut(self) -> int:
        """How many were cut."""
        return sum(self.overlong)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model as its files have it: transformers' CLIPModel in fp32, its tokenizer and its preprocessing."""

    clip: Any
    tokenizer: Any
    preprocessing: Preprocessing


def load_clip(model: Model) -> Checkpoint:
    """A model from its files, fresh, its adapter merged in.

    Raises:
        ModelError: the files cannot be loaded, lack weights, or the adapter does not fit or changes nothing.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    place = locate(model.base)
    clip = _load(str(place), model.base)
    if model.adapter:
        clip = _with_adapter(clip, model.adapter)
    return Checkpoint(
        clip=clip,
        tokenizer=_load_tokenizer(str(place), model.base),
        preprocessing=replace(read_preprocessing(preprocessor_file(place)), exif_orientation=model.exif_orientation),
    )


class ClipEncoder:
    """A CLIP model on one device at one precision: tensors with gradients for training, arrays for the store.

    Attributes:
        workers: threads that run batches side by side best. On a CPU that is one a core, each computing alone: no core
            waits for another at the end of every product, and a thread that decodes takes none of the others' time.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, precision: str = "fp32", device: str = "cpu", compiled: bool = False
    ) -> None:
        self.preprocessing = checkpoint.preprocessing
        self.device = torch.device(device)
        self._dtype = DTYPES[precision]
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else _CUDA_WORKERS
        if self.device.type == "cpu":
            _keep_freed_memory()
        self._model = checkpoint.clip.eval().requires_grad_(requires_grad=False).to(self.device, self._dtype)
        self._see, self._read = forward.see, forward.read
        if compiled:
            self._see, self._read = torch.compile(forward.see), torch.compile(forward.read, dynamic=True)
        self._tokenizer = checkpoint.tokenizer
        self._max_tokens = int(self._model.config.text_config.max_position_embeddings)
        # (pixels * scale - mean) / std, as one product and one difference
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        self._factor = self.preprocessing.scale / std
        self._shift = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1) / std

    @property
    def weights(self) -> int:
        """Bytes that the weights take on the device."""
        return sum(weight.nbytes for weight in self._model.parameters())

    def batch_tokens(self, tower: str, memory: int) -> int:
        """How many tokens of a tower to run at once within `memory` bytes, beside the weights: at least one item's.

        A token's activations: its hidden state, the three projections, their mixture and the widened layer (twice,
        before and after its activation), and a row of attention a head, before and after its softmax; every worker has
        a batch of its own.
        """
        settings = getattr(self._model.config, "vision_config" if tower == "image" else "text_config")
        longest = self.image_tokens if tower == "image" else row_tokens(self._max_tokens)
        attention = 2 * settings.num_attention_heads * longest
        per_token = 5 * settings.hidden_size + 2 * settings.intermediate_size + attention
        fitting = memory // int(per_token * self._dtype.itemsize * self.workers)
        return max(longest, min(_BATCH_TOKENS.get(self.device.type, 512), fitting))

    @property
    def image_tokens(self) -> int:
        """How many tokens an image is: its patches, and the one that speaks for all."""
        settings = self._model.config.vision_config
        return int(settings.image_size // settings.patch_size) ** 2 + 1

    def tokenize(self, texts: list[str]) -> Texts:
        """Token ids as the model's own tokenizer gives them, its start and end tokens included."""
        return _tokenized(self._tokenizer, texts, self._max_tokens)

    def writes_out(self, text: str) -> bool:
        """Whether a start or end token, such as "<|endoftext|>", stands in a text in letters: as plain text here."""
        return _writes_out(self._tokenizer, text)

    @torch.inference_mode()
    def image_features(self, pixels: NDArray[np.uint8]) -> Floats:
        """Backbone features of uint8 pixels (B, height, width, 3): float32 (B, features_dim)."""
        return _numpy(self._see(self._model.vision_model, self._values(self._there(torch.from_numpy(pixels)))))

    @torch.inference_mode()
    def project(self, features: Floats) -> Floats:
        """Image vectors, not normalised, of features (B, features_dim): float32 (B, dim)."""
        return _numpy(self.projected(torch.from_numpy(features)))

    @torch.inference_mode()
    def text_vectors(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Text vectors, not normalised, of a batch of token ids: float32 (B, dim)."""
        return self._text_vectors(ids, self._read)

    @torch.inference_mode()
    def probe(self) -> dict[str, Floats]:
        """The vectors (dim,) of a fixed image and a fixed caption, by tower, and the image's features as "backbone".

        Not through torch's compiler, which would compile for a batch of one.
        """
        pixels = torch.from_numpy(preprocess(probe_image(), self.preprocessing)[None].copy())
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for one item, threads would wait for one another longer than they compute
        try:
            features = _numpy(forward.see(self._model.vision_model, self._values(self._there(pixels))))
            texts = self._text_vectors(self.tokenize([CAPTION]).ids, forward.read)
            return {"image": self.project(features)[0], "backbone": features[0], "text": texts[0]}
        finally:
            torch.set_num_threads(threads)

    def _text_vectors(self, ids: Sequence[Sequence[int]], read: Callable[..., torch.Tensor]) -> Floats:
        packed = pack([one[: self._end(one) + 1] for one in ids])
        laid = (packed.tokens, packed.positions, packed.attends, packed.ends)
        states = read(self._model.text_model, *(self._there(torch.from_numpy(array)) for array in laid))
        return _numpy(self._model.text_projection(states))

    def seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """Backbone features (B, features_dim) of uint8 pixels (B, height, width, 3)."""
        return cast("torch.Tensor", self._model.vision_model(pixel_values=self._values(pixels)).pooler_output)

    def projected(self, features: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, dim), not normalised, of features (B, features_dim)."""
        return cast("torch.Tensor", self._model.visual_projection(features.to(self.device, self._dtype)))

    def read(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """Text vectors (B, dim), not normalised, of a batch of token ids."""
        longest = max(map(len, ids))
        padding = self._tokenizer.pad_token_id
        batch = self._there(torch.tensor([[*one, *[padding] * (longest - len(one))] for one in ids]))
        states = self._model.text_model(input_ids=batch).pooler_output
        return cast("torch.Tensor", self._model.text_projection(states))

    def _values(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the vision tower takes, (B, 3, height, width), of uint8 pixels (B, height, width, 3)."""
        # Seen as (B, 3, height, width), the values stay as they lie in memory, channels last, as convolutions like it.
        batch = pixels.to(self.device).permute(0, 3, 1, 2).float().mul_(self._factor).sub_(self._shift)
        return batch.to(self._dtype)

    def _end(self, ids: Sequence[int]) -> int:
        """The place of the token that speaks for a text: the first end token, as transformers has it."""
        end = self._model.config.text_config.eos_token_id
        if end == _OLD_END:
            end = max(ids)
        if end not in ids:
            message = f"the model's config.json says that {end} ends a text, and its tokenizer gives {list(ids)[:9]}"
            raise ModelError(message)
        return ids.index(end)

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor on the device; on its way to a GPU it holds nobody up."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor


def overlong(model: Model, texts: list[str]) -> list[bool]:
    """Which texts are longer than a model reads, by its tokenizer; no weights are loaded.

    Raises:
        ModelError: the model's files cannot be had.
    """
    place = locate(model.base)
    return _tokenized(_load_tokenizer(str(place), model.base), texts, longest_text(place)).overlong


def _tokenized(tokenizer: Any, texts: list[str], longest: int) -> Texts:
    """Token ids, at most `longest` of each text.

    A start or end token that stands in a text in letters would end it there for the model, which reads no further: such
    texts are split as plain text throughout. All others are tokenized as transformers does it by default.
    """
    spelled = [_writes_out(tokenizer, text) for text in texts]
    ids: list[list[int]] = [[] for _ in texts]
    cut = [False] * len(texts)
    for plain in (False, True):
        places = [place for place, one in enumerate(spelled) if one == plain]
        if not places:
            continue
        some = [texts[place] for place in places]
        told = tokenizer(some, truncation=True, max_length=longest, split_special_tokens=plain)
        for place, own, encoding in zip(places, told["input_ids"], told.encodings, strict=True):
            ids[place], cut[place] = own, bool(encoding.overflowing)
    return Texts(ids=ids, overlong=cut)


def _writes_out(tokenizer: Any, text: str) -> bool:
    lowered = text.lower()  # a tokenizer may look for its tokens in the text as it normalizes it
    return any(token.lower() in lowered for token in (tokenizer.bos_token, tokenizer.eos_token) if token)


def _keep_freed_memory() -> None:
    """Have the C library keep the memory of one operation's result for the next one's.

    Left alone, it gives a block of a batch's size back to the system when it is freed, and the system clears every page
    of the next: a fifth of the time of a batch of captions. Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)


def _numpy(tensor: torch.Tensor) -> Floats:
    return cast("Floats", tensor.float().cpu().numpy())


def _load(place: str, base: str) -> Any:
    """The model in fp32, from safetensors, every weight accounted for."""
    try:
        loaded, report = CLIPModel.from_pretrained(
            place,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except _LOAD_ERRORS as error:
        message = f"cannot load {base} from {place}: {' '.join(str(error).split())}"
        raise ModelError(message) from error
    missing = [name for name in report["missing_keys"] if not name.endswith("position_ids")]
    if missing:
        message = f"{base} at {place} lacks {len(missing)} weights, {missing[0]} the first: not a whole CLIP checkpoint"
        raise ModelError(message)
    return loaded


def _load_tokenizer(place: str, base: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises nothing narrower
        message = f"cannot open the tokenizer of {base} at {place}: {' '.join(str(error).split())}"
        raise ModelError(message) from error


def _with_adapter(base: Any, adapter: str) -> Any:
    """The model with a PEFT adapter merged in, and the heads that lie beside the adapter in the place of its own."""
    folder = str(adapter_files(adapter)[0].parent)
    modules = linear_modules(base)
    before = _outputs(base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's: weights that are missing are looked at here
            tuned = PeftModel.from_pretrained(base, folder)
            stored = load_peft_weights(folder, device="cpu")
            result = set_peft_model_state_dict(tuned, stored)  # once more, for what it says of names
            untouched = _untouched_towers(adapter, list(stored), result)
            merged = tuned.merge_and_unload()
    except _LOAD_ERRORS as error:
        message = (
            f"the adapter {adapter} does not fit its base, whose linear modules are {', '.join(modules)}: "
            f"{' '.join(str(error).split())}"
        )
        raise ModelError(message) from error
    _check_outputs(adapter, before, _outputs(merged), untouched)
    heads = heads_file(adapter)
    if heads:
        load_heads(merged, heads)
    return merged


def _untouched_towers(adapter: str, stored: list[str], result: Any) -> set[str]:
    """The towers that an adapter has no tensors for; its configuration may put it there too, where it does nothing.

    Raises:
        ModelError: a stored tensor goes nowhere, or a tower has some of its tensors alone.
    """
    if result.unexpected_keys:
        names = [name.replace(".default", "") for name in result.unexpected_keys]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        message = (
            f"the adapter {adapter} has {len(names)} tensors that are not applied, {', '.join(names[:_NAMED])}{more}: "
            "target_modules and exclude_modules in its adapter_config.json must be those that it was trained with, and "
            "so must the kind of model that it was made on"
        )
        raise ModelError(message)
    missing = {name for name in result.missing_keys if ".default" in name and not any(map(name.count, _SHARED))}
    absent = {tower for tower, parts in _TOWERS.items() if not any(part in name for name in stored for part in parts)}
    here = [name for name in missing if not any(part in name for tower in absent for part in _TOWERS[tower])]
    if here:
        message = (
            f"the adapter {adapter} does not fit its base: its configuration puts it on modules that it has no tensors "
            f"for, {sorted(here)[0].replace('.default', '')} the first"
        )
        raise ModelError(message)
    return absent


def _check_outputs(adapter: str, before: _Outputs, after: _Outputs, untouched: set[str]) -> None:
    """Refuse an adapter that changes nothing, or a tower that it has no tensors for."""
    if all(torch.equal(before[tower], after[tower]) for tower in before):
        message = f"the adapter {adapter} changes nothing: its base gives the same vectors without it"
        raise ModelError(message)
    for tower in untouched:
        if not torch.allclose(before[tower], after[tower], rtol=1e-4, atol=1e-6):
            message = (
                f"the adapter {adapter} has no tensors for the {tower} tower, and its configuration changes that tower "
                "all the same: narrow target_modules in its adapter_config.json to the tower that it was trained on"
            )
            raise ModelError(message)


def linear_modules(clip: Any) -> list[str]:
    """The names, each once, of the linear modules in a CLIP's towers: what a LoRA can sit on."""
    found = (name.rpartition(".")[2] for name, module in clip.named_modules() if isinstance(module, torch.nn.Linear))
    return sorted(set(found))


def load_heads(clip: Any, file: Path) -> None:
    """Put trained heads, a safetensors file, into a CLIP.

    Raises:
        ModelError: the file cannot be read, or its tensors are not those of this CLIP.
    """
    try:
        heads = load_file(file)
    except (OSError, SafetensorError) as error:
        message = f"cannot read the heads {file}: {error}"
        raise ModelError(message) from error
    own = dict(clip.named_parameters())
    for name, weight in heads.items():
        if name not in own or own[name].shape != weight.shape:
            message = f"the heads {file} do not fit their base: it has no {name} of the shape {tuple(weight.shape)}"
            raise ModelError(message)
        with torch.no_grad():
            own[name].copy_(weight)


@torch.inference_mode()
def _outputs(model: Any) -> _Outputs:
    """What both towers give for one fixed input each, through their heads."""
    model.eval()
    vision = model.config.vision_config
    pixels = torch.linspace(-1, 1, 3 * vision.image_size**2).view(1, 3, vision.image_size, vision.image_size)
    tokens = torch.arange(1, 9).view(1, 8) % model.config.text_config.vocab_size
    return {
        "image": model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output),
        "text": model.text_projection(model.text_model(input_ids=tokens).last_hidden_state),
    }
