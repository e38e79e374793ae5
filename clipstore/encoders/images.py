"""From an image file's bytes to the pixels that a CLIP image tower takes, equal to transformers' PIL-based processor.

Resizing and cropping are done here, in uint8; scaling and normalisation are done in ClipEncoder.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from clipstore.encoders.model_files import read_json
from clipstore.errors import ImageError, ModelError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # Pillow warns above this; clipstore refuses such images

# Errors of Pillow for damaged files, in addition to its own classes.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
)

# EXIF orientation -> the transposition that undoes it.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_PNG = b"\x89PNG\r\n\x1a\n"
_HEIC = ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1")
_OTHER_FORMATS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image: run 'git lfs pull'"),
    (b"<!doctype html", "an HTML page, not an image: download it again"),
    (b"<html", "an HTML page, not an image: download it again"),
    (b"<svg", "SVG is not supported: convert it to PNG"),
    (b"<?xml", "XML or SVG, not an image of pixels: convert it to PNG"),
    (b"%pdf", "PDF is not supported: convert it to PNG"),
    (b"\x1f\x8b", "a gzip file: unpack it"),
    (b"\xff\x0a", "JPEG XL is not supported: convert it to JPEG"),
    (b"\x00\x00\x00\x0cjxl ", "JPEG XL is not supported: convert it to JPEG"),
)


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

    def key(self) -> str:
        """The settings of the file as text, for a fingerprint; `exif_orientation` is hashed with the model."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if name != "exif_orientation"}, sort_keys=True
        )


def read_preprocessing(file: Path) -> Preprocessing:
    """The preprocessing in a preprocessor_config.json or a processor_config.json.

    Raises:
        ModelError: a setting is missing or invalid.
    """
    settings = read_json(file)
    try:
        return _preprocessing(settings.get("image_processor", settings))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{file} does not describe how images are preprocessed: {error or type(error).__name__}"
        raise ModelError(message) from error


def _preprocessing(settings: dict[str, Any]) -> Preprocessing:
    edge, resize = _resize_settings(settings)
    crop = _height_width(settings.get("crop_size")) if settings.get("do_center_crop", True) else resize
    if crop is None:
        message = "neither crop_size nor a size with height and width: the pixels would have no fixed shape"
        raise ValueError(message)
    normalize = settings.get("do_normalize", True)
    return Preprocessing(
        shortest_edge=edge,
        resize=resize,
        crop=crop,
        resample=int(Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))),
        scale=float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0,
        mean=_channel_values(settings, "image_mean") if normalize else (0.0, 0.0, 0.0),
        std=_channel_values(settings, "image_std") if normalize else (1.0, 1.0, 1.0),
    )


def _channel_values(settings: dict[str, Any], key: str) -> tuple[float, ...]:
    values = tuple(map(float, settings[key]))
    if len(values) != 3:
        message = f"{key} has {len(values)} values: expected one for each of three channels"
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
        return size, None
    return size.get("shortest_edge"), _height_width(size)


def _height_width(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (size["height"], size["width"]) if size and "height" in size else None


def decode_pixels(data: bytes, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Decode an image file and preprocess it: uint8 pixels (height, width, 3).

    Raises:
        ImageError: the bytes are not a readable image, or it cannot be resized; with the reason.
    """
    image = decode_image(data)
    if preprocessing.exif_orientation:
        image = apply_orientation(image, data)
    return preprocess(image, preprocessing)


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop a decoded image: uint8 pixels (height, width, 3).

    Raises:
        ImageError: the image is too elongated to be resized.
    """
    return np.asarray(_crop(_resize(image, preprocessing), preprocessing.crop))


def decode_image(data: bytes, *, min_side: int | None = None) -> Image.Image:
    """Decode an image file to three channels of 8 bits, as stored: `apply_orientation` applies its EXIF orientation.

    With `min_side`, a JPEG may be decoded faster, at a reduced size of at least `min_side` pixels on both sides.

    Raises:
        ImageError: the bytes are not a readable image; with the reason.
    """
    if not data:
        message = "the file is empty"
        raise ImageError(message)
    try:
        return _decode(data, min_side)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large() from error
    except UnidentifiedImageError as error:
        message = _name_format(data)
        raise ImageError(message) from error
    except _DAMAGED as error:
        message = f"damaged: {' '.join(str(error).split()) or type(error).__name__}"
        raise ImageError(message) from error


def _decode(data: bytes, min_side: int | None) -> Image.Image:
    """Decode to three channels of 8 bits. A PNG whose text Pillow refuses as too large is decoded without its text."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image)
            if min_side:
                image.draft(image.mode, (min_side, min_side))
            return _check_size(_to_rgb(image))
    except ValueError:
        bare = _strip_png_text(data)
        if len(bare) == len(data):
            raise
        return _decode(bare, min_side)


def _check_size(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large()
    return image


def _too_large() -> ImageError:
    return ImageError(f"over the pixel limit ({MAX_PIXELS}): downscale it")


def apply_orientation(image: Image.Image, data: bytes) -> Image.Image:
    """Rotate or mirror a decoded image by the EXIF orientation in its file's bytes; unchanged where there is none.

    Pillow applies the orientation of a TIFF itself when it decodes it.
    """
    try:
        with Image.open(io.BytesIO(data)) as header:
            orientation = None if header.format == "TIFF" else header.getexif().get(ExifTags.Base.Orientation)
    except (*_DAMAGED, Warning):  # the pixels were read: only the metadata are damaged
        orientation = None
    transposition = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def _strip_png_text(data: bytes) -> bytes:
    """A PNG without its text chunks (PNG specification, 11.3.4), which contain no pixels; other files unchanged."""
    if not data.startswith(_PNG):
        return data
    chunks, start = [_PNG], len(_PNG)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            chunks.append(data[start:end])
        start = end
    return b"".join(chunks)


def _name_format(data: bytes) -> str:
    """The format of bytes that Pillow does not recognise, with the remedy."""
    if data[4:8] == b"ftyp":
        brand = data[8:12].decode("latin-1")
        if brand in _HEIC:
            return "HEIC is not supported: convert it to JPEG"
        return f"a video or an image of the kind {brand.strip()!r}, which is not supported: convert it to JPEG"
    start = data[:64].lstrip().lower()
    known = (reason for signature, reason in _OTHER_FORMATS if start.startswith(signature))
    return next(known, "not an image recognised by Pillow")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; transparent pixels are blended onto white, as in transformers.

    16-bit grey is scaled here: Pillow would clip it at 255.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        message = f"pixels of mode {image.mode} have no fixed range: save the image with 8 or 16 bits"
        raise ImageError(message)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


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
