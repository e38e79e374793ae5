"""What a model's files say of its size, read without torch and without reading any weight.

A family extends `input_size` and `vector_width`, which read its configuration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from clipstore.encoders.fingerprint_inputs import config_size, tower_config
from clipstore.encoders.model_files import adapter_files, locate, read_json, weight_files
from clipstore.encoders.weights import tensor_shapes


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """The size of a base.

    Attributes:
        parameters: of both towers and all else.
        input_size: side of the square of pixels that the image tower takes; None: it has no fixed size.
        dim: width of the vectors; None: its configuration does not say.
    """

    parameters: int
    input_size: int | None
    dim: int | None


def describe_base(base: str) -> BaseDescription:
    """The size of a base by its files; nothing is downloaded.

    Raises:
        ModelError: a file is missing or damaged.
    """
    folder = locate(base, fetch=False)
    config = read_json(folder / "config.json")
    return BaseDescription(
        parameters=count_parameters(weight_files(folder)), input_size=input_size(config), dim=vector_width(config)
    )


def adapter_parameters(adapter: str) -> int:
    """The parameters of an adapter, with the trained heads beside it.

    Raises:
        ModelError: a file is missing or damaged.
    """
    return count_parameters(adapter_files(adapter)[1:])


def count_parameters(files: Iterable[Path]) -> int:
    """The number of values in the floating-point tensors of safetensors files, by their headers.

    Integers, such as the position ids of old checkpoints, are not parameters.

    Raises:
        ModelError: a file cannot be read, or is not a safetensors file.
    """
    shapes = (shape for file in files for shape in tensor_shapes(file).values())
    return sum(prod(shape) for dtype, shape in shapes if dtype.startswith(("F", "BF")))


def input_size(config: dict[str, Any]) -> int | None:
    """Side of the images that the image tower takes, in pixels, by config.json of any family with a fixed size."""
    return config_size(tower_config(config, "vision"), "image_size", 224)


def vector_width(config: dict[str, Any]) -> int | None:
    """Width of the vectors, by config.json."""
    return config_size(config, "projection_dim", 512)
