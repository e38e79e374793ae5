"""What a model's files say of its size, read without torch and without reading any weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from clipstore.encoders.fingerprint_inputs import read_settings
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import adapter_files
from clipstore.encoders.weights import tensor_shapes
from clipstore.records import Model


@dataclass(frozen=True, kw_only=True)
class BaseDescription:
    """The size of a base.

    Attributes:
        parameters: of both towers and all else.
        input_size: side of the square of pixels that the image tower takes; None: it takes images of any size.
        dim: width of the vectors.
    """

    parameters: int
    input_size: int | None
    dim: int


def describe_base(model: Model) -> BaseDescription:
    """The size of a model's base by its files; nothing is downloaded.

    Raises:
        ModelError: a file is missing or damaged.
    """
    folder = locate(model.base, fetch=False)
    settings = read_settings(folder, model)
    family, towers = settings.family, settings.towers
    return BaseDescription(
        parameters=count_parameters(family.weight_files(folder)),
        input_size=family.size(towers, "vision", "image_size") if family.has_input_size else None,
        dim=family.dim(settings.config, towers),
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
