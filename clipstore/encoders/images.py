"""From a photo's bytes to the pixels that a CLIP image tower reads, equal to transformers' PIL-based processor.

Resizing and cropping happen here, in uint8; scaling and normalising happen at the tower's door.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from clipstore.encoders.model_files import read_json
from clipstore.errors import ImageError, ModelError

# A photo that would unpack to more than Pillow's limit (some 89 million pixels) is refused, not warned about.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# Damaged EXIF data say no orientation, and nobody else reads them.
warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", category=UserWarning)
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485

# What Pillow raises on damaged files, beside its own errors.
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


_TURNS = {
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
_OTHER_KINDS = (
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
    """What a model's preprocessor_config.json asks for.

    Either `shortest_edge` or `resize` (height, width) says how the photo is resized (both None: not at all); then
    the centre of `crop` (height, width) is taken, multiplied by `scale`, and normalised by `mean` and `std`.
    `exif_orientation` is the model's option, not the file's: turn the image as its EXIF data says, before all that.
    transformers does not, and neither does clipstore by default.
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
        """What the file asks for as text, for a fingerprint; the orientation is the model's and hashed with it."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if name != "exif_orientation"}, sort_keys=True
        )


def read_preprocessing(file: Path) -> Preprocessing:
    """The preprocessing that a preprocessor_config.json (or a processor_config.json) asks for.

    Raises:
        ModelError: the file does not say what is needed.
    """
    told = read_json(file)
    try:
        return _preprocessing(told.get("image_processor", told))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{file} does not say how photos are prepared: {error or type(error).__name__}"
        raise ModelError(message) from error


def _preprocessing(told: dict[str, Any]) -> Preprocessing:
    edge, resize = _resizing(told)
    crop = _height_width(told.get("crop_size")) if told.get("do_center_crop", True) else resize
    if crop is None:
        message = "neither crop_size nor a size with height and width: the pixels would have no fixed shape"
        raise ValueError(message)
    return Preprocessing(
        shortest_edge=edge,
        resize=resize,
        crop=crop,
        resample=int(Image.Resampling(told.get("resample", Image.Resampling.BICUBIC))),
        scale=float(told.get("rescale_factor", 1 / 255)) if told.get("do_rescale", True) else 1.0,
        mean=_channels(told, "image_mean") if told.get("do_normalize", True) else (0.0, 0.0, 0.0),
        std=_channels(told, "image_std") if told.get("do_normalize", True) else (1.0, 1.0, 1.0),
    )


def _channels(told: dict[str, Any], key: str) -> tuple[float, ...]:
    values = tuple(map(float, told[key]))
    if len(values) != 3:
        message = f"{key} has {len(values)} values, and an image three channels"
        raise ValueError(message)
    return values


def _resizing(told: dict[str, Any]) -> tuple[int | None, tuple[int, int] | None]:
    size = told.get("size")
    if not told.get("do_resize", True):
        return None, None
    if size is None:  # transformers would take a default that depends on the class of the processor
        message = "do_resize without a size"
        raise ValueError(message)
    if isinstance(size, int):  # as the first CLIP checkpoints have it
        return size, None
    return size.get("shortest_edge"), _height_width(size)


def _height_width(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (size["height"], size["width"]) if size and "height" in size else None


def decode_pixels(photo: bytes, how: Preprocessing) -> NDArray[np.uint8]:
    """The pixels of a photo, uint8 (height, width, 3), resized and cropped.

    Raises:
        ImageError: the bytes are not a photo that can be read, or it cannot be resized; with the reason.
    """
    image = decode_image(photo)
    return preprocess(apply_orientation(image, photo) if how.exif_orientation else image, how)


def preprocess(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """The pixels of a decoded photo, uint8 (height, width, 3), resized and cropped.

    Raises:
        ImageError: the photo is too elongated to be resized.
    """
    return np.asarray(_crop(_resize(image, how), how.crop))


def decode_image(photo: bytes, *, min_side: int | None = None) -> Image.Image:
    """A photo from its bytes, in three channels of 8 bits, as it lies in the file: `apply_orientation` turns it.

    With `min_side`, a JPEG may be decoded faster, at a reduced size of at least `min_side` pixels on both sides.

    Raises:
        ImageError: the bytes are not a photo that can be read; with the reason.
    """
    if not photo:
        message = "the file is empty"
        raise ImageError(message)
    try:
        return _opened(photo, min_side)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        message = f"more than {MAX_PIXELS} pixels: a decompression bomb, or a scan to shrink first"
        raise ImageError(message) from error
    except UnidentifiedImageError as error:
        message = _other_kind(photo)
        raise ImageError(message) from error
    except _DAMAGED as error:
        message = f"damaged: {' '.join(str(error).split()) or type(error).__name__}"
        raise ImageError(message) from error


def _opened(photo: bytes, min_side: int | None) -> Image.Image:
    """A photo in three channels of 8 bits; a PNG whose text Pillow finds too large is read without its text."""
    try:
        with Image.open(io.BytesIO(photo)) as image:
            if min_side:
                image.draft(image.mode, (min_side, min_side))
            return _rgb(image)
    except ValueError:
        bare = _without_text(photo)
        if len(bare) == len(photo):
            raise
        return _opened(bare, min_side)


def apply_orientation(image: Image.Image, photo: bytes) -> Image.Image:
    """A decoded photo turned and mirrored as the EXIF data in its bytes say; as it is where they say nothing.

    Of a TIFF as Pillow decodes it, for every program: that is turned already.
    """
    try:
        with Image.open(io.BytesIO(photo)) as header:
            orientation = None if header.format == "TIFF" else header.getexif().get(ExifTags.Base.Orientation)
    except (*_DAMAGED, Warning):  # pixels were read: only what stands beside them is damaged
        orientation = None
    method = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _without_text(photo: bytes) -> bytes:
    """A PNG without its text chunks (PNG specification, 11.3.4), which hold no pixels; anything else as it is."""
    if not photo.startswith(_PNG):
        return photo
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(photo):
        end = at + 12 + int.from_bytes(photo[at : at + 4])
        if photo[at + 4 : at + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            kept.append(photo[at:end])
        at = end
    return b"".join(kept)


def _other_kind(photo: bytes) -> str:
    """What bytes that Pillow does not know are, and what to do."""
    if photo[4:8] == b"ftyp":
        brand = photo[8:12].decode("latin-1")
        if brand in _HEIC:
            return "HEIC is not supported: convert it to JPEG"
        return f"a video or an image of the kind {brand.strip()!r}, which is not supported: convert it to JPEG"
    start = photo[:64].lstrip().lower()
    return next((kind for mark, kind in _OTHER_KINDS if start.startswith(mark)), "not an image that Pillow knows")


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; what is transparent lies on white, as in transformers.

    Pillow clips 16-bit grey at 255 instead of scaling it, so that is done here.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in {"I", "F"}:
        message = f"pixels of mode {image.mode} have no fixed range: save the photo with 8 or 16 bits"
        raise ImageError(message)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def _resize(image: Image.Image, how: Preprocessing) -> Image.Image:
    width, height = image.size
    if how.shortest_edge is not None:
        short = min(width, height)
        width, height = (int(how.shortest_edge * side / short) for side in (width, height))
    elif how.resize is not None:
        height, width = how.resize
    if width * height > MAX_PIXELS:
        message = f"{image.size[0]} x {image.size[1]} pixels: too elongated to be resized by its shorter edge"
        raise ImageError(message)
    return image.resize((width, height), Image.Resampling(how.resample))


def _crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The centre; what lies outside the picture is black, as in transformers."""
    top, left = ((have - want) // 2 for have, want in zip(image.size[::-1], size, strict=True))
    return image.crop((left, top, left + size[1], top + size[0]))
