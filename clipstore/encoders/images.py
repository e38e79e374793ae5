"""From an image to the pixels that an image tower takes, equal to those of transformers' PIL-based processors.

Resizing and cropping are done here, in uint8; scaling and normalisation are done in `Encoder`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipstore.encoders.decoding import MAX_PIXELS, apply_orientation, decoded_image
from clipstore.encoders.model_files import read_json
from clipstore.errors import ImageError, ModelError

_LONGEST_SIDE = 2**13  # pixels of a resized or cropped image
_MOST_PATCHES = 2**14
_FACTOR_WIDTH = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """The preprocessing that a model's preprocessor_config.json describes.

    The image is resized to `shortest_edge` or to `resize` (height, width), or not at all where both are None. Then its
    centre of `crop` (height, width) is taken, multiplied by `scale`, and normalised by `mean` and `std`.
    `exif_orientation` is an option of the model, not of the file: apply the EXIF orientation first. transformers does
    not, nor does clipstore by default.
    """

    shortest_edge: int | None
    resize: tuple[int, int] | None
    crop: tuple[int, int]
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif_orientation: bool = False

    @property
    def most_pixels(self) -> int:
        """The largest number of pixels of a preprocessed image."""
        return self.crop[0] * self.crop[1]

    def key(self) -> str:
        """The settings of the file as text, for a fingerprint; `exif_orientation` is hashed with the model."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if name != "exif_orientation"}, sort_keys=True
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchPreprocessing:
    """The preprocessing of images of flexible resolution, whose aspect ratio is nearly kept.

    The image is resized to whole patches of `patch` x `patch` pixels, at most `max_patches`. Other attributes are those
    of `Preprocessing`.
    """

    patch: int
    max_patches: int
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif_orientation: bool = False

    @property
    def most_pixels(self) -> int:
        """The largest number of pixels of a preprocessed image."""
        return self.max_patches * self.patch**2


AnyPreprocessing = Preprocessing | PatchPreprocessing
Settings = TypeVar("Settings", Preprocessing, PatchPreprocessing)


def read_preprocessing(file: Path, *, center_crop: bool = True) -> Preprocessing:
    """The preprocessing in a preprocessor_config.json or a processor_config.json.

    `center_crop` is the default of the file's class for images to be cropped.

    Raises:
        ModelError: a setting is missing or invalid.
    """
    return _read(file, lambda settings: _preprocessing(settings, center_crop=center_crop))


def read_patch_preprocessing(file: Path) -> PatchPreprocessing:
    """The preprocessing of images of flexible resolution in a preprocessor_config.json or a processor_config.json.

    Raises:
        ModelError: a setting is missing or invalid.
    """
    return _read(file, _patch_preprocessing)


def _read(file: Path, parse: Callable[[dict[str, Any]], Settings]) -> Settings:
    settings = read_json(file)
    try:
        return parse(settings.get("image_processor", settings))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        message = f"{file} does not describe how images are preprocessed: {error or type(error).__name__}"
        raise ModelError(message) from error


def _patch_preprocessing(settings: dict[str, Any]) -> PatchPreprocessing:
    if not settings.get("do_resize", True):
        message = "do_resize = false: images would not have whole patches"
        raise ValueError(message)
    patch, patches = _side("patch_size", settings.get("patch_size", 16)), settings.get("max_num_patches", 256)
    if not isinstance(patches, int) or not 1 <= patches <= _MOST_PATCHES:
        message = f"max_num_patches = {str(patches)[:60]}: expected patches from 1 to {_MOST_PATCHES}"
        raise ValueError(message)
    default = Image.Resampling.BILINEAR
    return PatchPreprocessing(patch=patch, max_patches=patches, **_values(settings, default))


def _preprocessing(settings: dict[str, Any], *, center_crop: bool) -> Preprocessing:
    edge, resize = _resize_settings(settings)
    crops = settings.get("do_center_crop", center_crop)
    crop = _height_width("crop_size", settings.get("crop_size")) if crops else resize
    if crop is None:
        message = "neither crop_size nor a size with height and width: the pixels would have no fixed shape"
        raise ValueError(message)
    default = Image.Resampling.BICUBIC
    return Preprocessing(shortest_edge=edge, resize=resize, crop=crop, **_values(settings, default))


def _values(settings: dict[str, Any], resample: int) -> dict[str, Any]:
    """The settings that all kinds of preprocessing have; `resample` is the default of the file's class."""
    scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    if not math.isfinite(scale):
        message = "rescale_factor must be finite"
        raise ValueError(message)
    normalize = settings.get("do_normalize", True)
    return {
        "resample": int(Image.Resampling(settings.get("resample", resample))),
        "scale": scale,
        "mean": channel_values(settings, "image_mean") if normalize else (0.0, 0.0, 0.0),
        "std": channel_values(settings, "image_std", divides=True) if normalize else (1.0, 1.0, 1.0),
    }


def channel_values(
    settings: dict[str, Any], key: str, default: tuple[float, ...] | None = None, *, divides: bool = False
) -> tuple[float, ...]:
    """The values of a setting for the three channels; without `default` it must be there.

    Raises:
        KeyError, TypeError, ValueError: they are not three finite numbers, or 0 although pixels are divided by them.
    """
    values = tuple(map(float, settings[key] if default is None else settings.get(key, default)))
    if len(values) != 3:
        message = f"{key} has {len(values)} values: expected one for each of three channels"
        raise ValueError(message)
    if not all(map(math.isfinite, values)) or (divides and 0 in values):
        message = f"{key} must be finite" + (", and not 0" if divides else "")
        raise ValueError(message)
    return values


def _resize_settings(settings: dict[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    size = settings.get("size")
    if not settings.get("do_resize", True):
        return None, None
    if size is None:  # transformers' default depends on the class of the processor
        message = "do_resize without a size"
        raise ValueError(message)
    if isinstance(size, int):  # as in the first CLIP checkpoints
        return _side("size", size), None
    edge, resize = size.get("shortest_edge"), _height_width("size", size)
    if edge is None and resize is None:
        message = "size has neither shortest_edge, nor height and width"
        raise ValueError(message)
    return None if edge is None else _side("shortest_edge", edge), resize


def _height_width(name: str, size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return _side(name, size), _side(name, size)
    return (_side(name, size["height"]), _side(name, size["width"])) if size and "height" in size else None


def _side(name: str, value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= _LONGEST_SIDE:
        message = f"{name} = {str(value)[:60]}: expected pixels from 1 to {_LONGEST_SIDE}"
        raise ValueError(message)
    return value


def decode_pixels(data: bytes, preprocessing: AnyPreprocessing) -> NDArray[np.uint8]:
    """Decode an image file and preprocess it: uint8 pixels (height, width, 3).

    Raises:
        ImageError: the bytes are not a readable image, or it cannot be resized; with the reason.
    """
    with decoded_image(data) as image:
        oriented = apply_orientation(image, data) if preprocessing.exif_orientation else image
        return preprocess(oriented, preprocessing)


def preprocess(image: Image.Image, preprocessing: AnyPreprocessing) -> NDArray[np.uint8]:
    """Resize and crop a decoded image: uint8 pixels (height, width, 3).

    Raises:
        ImageError: the image is too elongated to be resized.
    """
    if isinstance(preprocessing, PatchPreprocessing):
        size = _whole_patches(image.size, preprocessing)
        return np.asarray(image.resize(size, Image.Resampling(preprocessing.resample)))
    return np.asarray(_crop(_resize(image, preprocessing), preprocessing.crop))


def _whole_patches(size: tuple[int, int], preprocessing: PatchPreprocessing) -> tuple[int, int]:
    """The width and height of an image resized to whole patches, at most `max_patches` of them.

    Both sides are multiplied by one factor and rounded up to patches. The factor is the largest that fits, to within
    the width at which transformers ends its bisection: with another width some images would have another size.
    """
    patch = preprocessing.patch
    lower, upper = _FACTOR_WIDTH / 10, 100.0

    def patches(factor: float) -> tuple[int, int]:
        width, height = (max(1, math.ceil(side * factor / patch)) for side in size)
        return width, height

    while upper - lower >= _FACTOR_WIDTH:
        middle = (lower + upper) / 2
        if math.prod(patches(middle)) <= preprocessing.max_patches:
            lower = middle
        else:
            upper = middle
    columns, rows = patches(lower)
    return columns * patch, rows * patch


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    width, height = image.size
    if preprocessing.shortest_edge is not None:
        short = min(width, height)
        width, height = (int(preprocessing.shortest_edge * side / short) for side in (width, height))
    elif preprocessing.resize is not None:
        height, width = preprocessing.resize
    if width * height > MAX_PIXELS:
        message = f"{image.size[0]} x {image.size[1]} pixels: too elongated to be resized by its shorter edge"
        raise ImageError(message)
    return image.resize((width, height), Image.Resampling(preprocessing.resample))


def _crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The centre of the given (height, width); pixels outside the image are black, as in transformers."""
    top, left = ((side - cropped) // 2 for side, cropped in zip(image.size[::-1], size, strict=True))
    return image.crop((left, top, left + size[1], top + size[0]))
