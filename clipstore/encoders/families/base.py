"""What a family of models is: its files, its recipe and its two towers, behind one interface.

A family is one object without state. What decides fingerprints imports no torch; what takes a `model`, one of
transformers' models that `load` returned, is called once torch is loaded.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from clipstore.encoders.images import AnyPreprocessing, read_preprocessing
from clipstore.encoders.model_files import indexed_weights, preprocessor_file, read_json
from clipstore.errors import ModelError

if TYPE_CHECKING:
    import torch

Config = dict[str, Any]
Towers = Mapping[str, Config]  # the configurations of the towers "text" and "vision"
Sizes = Mapping[str, tuple[int, int]]  # key of a tower's configuration -> transformers' default, the largest accepted
Shape = tuple[int, ...]
Ids = Sequence[Sequence[int]]  # token ids of texts
Pixels = Sequence[NDArray[np.uint8]]  # of images, each (height, width, 3)
Normalize = Callable[[NDArray[np.uint8]], "torch.Tensor"]  # (B, height, width, 3) -> (B, 3, height, width)

LARGEST_WIDTH = 2**16
LARGEST_SIZES: Sizes = {  # of transformers' towers; the defaults differ
    "hidden_size": (768, LARGEST_WIDTH),
    "intermediate_size": (3072, 2**18),
    "num_hidden_layers": (12, 1000),
    "num_attention_heads": (12, 2**12),
}
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either is enough

_TOWER_KEYS = {
    "attention_dropout", "bos_token_id", "eos_token_id", "hidden_act", "hidden_size", "image_size",
    "initializer_factor", "initializer_range", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
    "num_attention_heads", "num_channels", "num_hidden_layers", "pad_token_id", "patch_size", "projection_dim",
    "vocab_size",
}  # fmt: skip


def sized(**defaults: int) -> Sizes:
    """The sizes of a tower: those that all towers have, with these defaults."""
    largest = {
        "max_position_embeddings": 2**16,
        "vocab_size": 2**24,
        "image_size": 2**13,
        "patch_size": 2**13,
        "num_patches": 2**16,
        "num_channels": 3,
    }
    sizes = dict(LARGEST_SIZES)
    for key, default in defaults.items():
        sizes[key] = (default, LARGEST_SIZES[key][1] if key in LARGEST_SIZES else largest[key])
    return sizes


class Family(ABC):
    """A family of models: those with the same files, recipe and classes.

    Attributes:
        name: as `family` in a job.
        title: what one of its models is called in messages.
        model_type: in config.json.
        model_keys, tower_keys: the keys of config.json that describe its models. transformers is given no others: among
            them are some that select code (`attn_implementation` can name a repository of kernels), and none that
            changes a vector.
        head_keys: the keys of config.json that describe the image tower's projection head, and not its backbone.
        sizes: of each tower.
        parts: part of a model -> prefixes of the names of its tensors. "image backbone", "image head" and "text" decide
            vectors, "no vector" does not.
        heads: the names of the weights that `heads = true` in a job trains.
        modules: the names of the towers' modules, of which a LoRA is placed on linear modules.
        tokenizer_files: the sets of files of which a tokenizer needs one.
        center_crop: whether images are cropped where the preprocessor's file does not say.
        has_temperature: whether checkpoints contain the temperature of the loss.
        has_input_size: whether all preprocessed images have one size, as batches of training need.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    model_type: ClassVar[str]
    model_keys: ClassVar[frozenset[str]] = frozenset({"initializer_factor", "transformers_weights"})
    tower_keys: ClassVar[frozenset[str]] = frozenset(_TOWER_KEYS)
    head_keys: ClassVar[frozenset[str]] = frozenset()
    sizes: ClassVar[Mapping[str, Sizes]]
    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    heads: ClassVar[tuple[str, ...]]
    modules: ClassVar[Mapping[str, str]] = {"text": "text_model", "vision": "vision_model"}
    tokenizer_files: ClassVar[tuple[tuple[str, ...], ...]] = TOKENIZER_FILES
    center_crop: ClassVar[bool] = False
    has_temperature: ClassVar[bool] = True
    has_input_size: ClassVar[bool] = True

    # Files

    def missing_file(self, folder: Path) -> str | None:
        """What a model folder lacks, as part of a message; None if it is complete."""
        if not all(file.is_file() for file in self.weight_files(folder)):
            return "no model.safetensors (weights in other formats are not read: convert them to safetensors)"
        if not any(all((folder / name).is_file() for name in names) for names in self.tokenizer_files):
            return "no " + ", nor ".join(" with ".join(names) for names in self.tokenizer_files)
        return None if preprocessor_file(folder).is_file() else "no preprocessor_config.json"

    def config_file(self, folder: Path) -> Path:
        """The file with the configuration."""
        return folder / "config.json"

    def settings_files(self, folder: Path) -> list[Path]:
        """The files with the configuration and the preprocessing."""
        return [self.config_file(folder), preprocessor_file(folder)]

    def weight_files(self, folder: Path) -> list[Path]:
        """The safetensors files that are loaded.

        Raises:
            ModelError: the configuration or an index cannot be read.
        """
        return indexed_weights(folder)

    def read_config(self, folder: Path) -> Config:
        """The whole configuration, with the towers' as "text_config" and "vision_config".

        Raises:
            ModelError: it cannot be read, or is not one of this family.
        """
        return read_json(self.config_file(folder))

    def tower_config(self, config: Config, tower: str) -> Config:
        """The configuration of a tower, "text" or "vision", as transformers resolves it.

        Raises:
            ModelError: transformers refuses it.
        """
        table = config.get(f"{tower}_config")
        return dict(table) if isinstance(table, dict) else {}

    def size(self, towers: Towers, tower: str, key: str) -> int:
        """A size of a tower, or transformers' default; `check_config` has checked it."""
        return int(towers[tower].get(key, self.sizes[tower][key][0]))

    # The recipe

    def read_preprocessing(self, folder: Path, towers: Towers) -> AnyPreprocessing:
        """The preprocessing of images.

        Raises:
            ModelError: the file is invalid, or produces pixels of another size than the image tower expects.
        """
        file, size = preprocessor_file(folder), self.size(towers, "vision", "image_size")
        preprocessing = read_preprocessing(file, center_crop=self.center_crop)
        if preprocessing.crop != (size, size):
            height, width = preprocessing.crop
            message = (
                f"{file} produces images of {height} x {width} pixels, but the model expects {size} x {size} "
                f"(image_size in {self.config_file(folder)}): use the preprocessor_config.json that belongs to the "
                "weights"
            )
            raise ModelError(message)
        return preprocessing

    def save_preprocessing(self, base: Path, folder: Path, preprocessing: AnyPreprocessing) -> None:
        """Write the preprocessing of the base in a folder to another one, as transformers reads it."""
        file = preprocessor_file(base)
        shutil.copyfile(file, folder / file.name)

    @abstractmethod
    def longest_text(self, towers: Towers) -> int:
        """The largest number of tokens in a text, start and end tokens included."""

    def load_tokenizer(self, folder: Path) -> Any:
        """The tokenizer, as the recipe uses it."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)

    def check_tokenizer(self, tokenizer: Any, folder: Path, towers: Towers) -> None:
        """Refuse a tokenizer that does not fit the recipe: most families read texts padded on the right.

        Raises:
            ModelError: it pads on the left, or has no padding token that the model knows.
        """
        padding, vocabulary = tokenizer.pad_token_id, self.size(towers, "text", "vocab_size")
        if tokenizer.padding_side != "right":
            fault, key = "padding on the left", "padding_side"
        elif padding is None or padding >= vocabulary:
            fault, key = f"no padding token within the model's vocabulary of {vocabulary}", "pad_token"
        else:
            return
        message = (
            f"the tokenizer in {folder} has {fault}, and {self.title} reads texts padded on the right: set {key!r} in "
            "its tokenizer_config.json"
        )
        raise ModelError(message)

    def special_tokens(self, tokenizer: Any) -> list[str]:
        """The tokens that mean something else than their text; in a caption they are read as plain text."""
        return list(tokenizer.all_special_tokens)

    def canonical(self, text: str) -> str:
        """The text that the tokenizer reads."""
        return text

    # Fingerprints and checks

    @abstractmethod
    def dim(self, config: Config, towers: Towers) -> int:
        """The width of the vectors."""

    def features_dim(self, towers: Towers) -> int:
        """The width of the image backbone's features; 0 if the image tower has no projection head."""
        return self.size(towers, "vision", "hidden_size") if "image head" in self.parts else 0

    def part(self, tensor: str) -> str:
        """The part of a model that a tensor belongs to, one of `parts`, or "both" towers if it is unknown."""
        bare = tensor.removeprefix("base_model.model.")
        return next((part for part, prefixes in self.parts.items() if bare.startswith(prefixes)), "both")

    def check_config(self, file: Path, config: Config, towers: Towers) -> None:
        """Refuse a configuration of plausible sizes that no model of this family can have.

        Raises:
            ModelError: the message names the key.
        """

    @abstractmethod
    def expected_shapes(self, config: Config, towers: Towers) -> dict[str, Shape]:
        """The shapes of some weights by the configuration: enough that what is built is no larger than the files."""

    # The towers

    @abstractmethod
    def load(self, folder: Path, config: Config) -> tuple[Any, Sequence[str]]:
        """The model in fp32, and the names of the weights that the files lack. `config` has only the family's keys."""

    def image_tokens(self, towers: Towers, preprocessing: AnyPreprocessing) -> int:
        """Tokens per image: its patches and the pooled token."""
        return (self.size(towers, "vision", "image_size") // self.size(towers, "vision", "patch_size")) ** 2 + 1

    def image_inputs(
        self, preprocessing: AnyPreprocessing, pixels: Pixels, normalize: Normalize
    ) -> tuple[torch.Tensor, ...]:
        """The inputs of the image tower."""
        return (normalize(np.stack(pixels)),)

    @abstractmethod
    def encode_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        """Backbone features (B, features_dim), or the vectors if there is no projection head."""

    @abstractmethod
    def project_image(self, model: Any, features: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, dim), not normalised, of features."""

    def text_batches(self, ids: Ids, tokens: int, longest: int) -> Iterator[list[int]]:
        """The numbers of texts in batches of at most `tokens` tokens: texts of similar length together."""
        batch: list[int] = []
        for number in sorted(range(len(ids)), key=lambda number: len(ids[number])):
            if batch and len(ids[number]) * (len(batch) + 1) > tokens:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def row_tokens(self, longest: int) -> int:
        """The largest number of tokens in a row of a batch of texts."""
        return longest

    @abstractmethod
    def text_inputs(self, model: Any, ids: Ids, padding: int) -> tuple[NDArray[Any], ...]:
        """The inputs of the text tower for token ids; `padding` is the id of the padding token.

        Raises:
            ModelError: a text has no end token, where the tower pools it.
        """

    @abstractmethod
    def encode_text(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        """Text vectors (B, dim), not normalised."""

    @abstractmethod
    def sample_outputs(self, model: Any) -> dict[str, torch.Tensor]:
        """Outputs of the towers "image" and "text" for a fixed input each, to see whether an adapter changes them."""

    # Training

    def train_image(self, model: Any, *inputs: torch.Tensor) -> torch.Tensor:
        """As `encode_image`, with gradients."""
        return self.encode_image(model, *inputs)

    def train_text(self, model: Any, ids: Ids, padding: int) -> torch.Tensor:
        """Text vectors (B, dim), not normalised, with gradients."""
        import torch

        inputs = (torch.from_numpy(array).to(model.device) for array in self.text_inputs(model, ids, padding))
        return self.encode_text(model, *inputs)

    def lora_pattern(self, towers: Sequence[str], modules: Sequence[str]) -> str:
        """A regular expression of the names of the linear modules `modules` of some towers."""
        names = "|".join(self.modules[tower] for tower in towers)
        return rf"({names})\..*\.({'|'.join(map(re.escape, modules))})"

    def scale(self, model: Any) -> torch.Tensor:
        """The factor of scores in the loss, the inverse of the temperature."""
        scale: torch.Tensor = model.logit_scale.float().exp()
        return scale


def check_size(file: Path, name: str, value: Any, most: int) -> None:
    """Refuse the value of a key of a configuration that is not an integer from 1 to `most`.

    Raises:
        ModelError: the message names the key.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        expected = "3" if most == 3 else f"an integer from 1 to {most}"
        message = f"{file}: {name} = {str(value)[:60]}: expected {expected}"
        raise ModelError(message)


def padded(ids: Ids, padding: int, length: int | None = None) -> NDArray[np.int64]:
    """Token ids padded on the right, to `length` or that of the longest: (B, length)."""
    batch = np.full((len(ids), length or max(map(len, ids))), padding, dtype=np.int64)
    for row, text in zip(batch, ids, strict=True):
        row[: len(text)] = text
    return batch


def loaded(
    model_class: Any, config_class: Any, folder: Path | None, config: Config, **options: Any
) -> tuple[Any, Sequence[str]]:
    """A transformers model in fp32 from safetensors, and the names of missing weights."""
    import torch

    model, report = model_class.from_pretrained(
        None if folder is None else str(folder),
        config=config_class.from_dict(config),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        **options,
    )
    return model, [name for name in report["missing_keys"] if not name.endswith("position_ids")]
