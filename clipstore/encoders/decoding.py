"""From an image file's bytes to an image of three channels of 8 bits: the only place that opens files with Pillow.

Files come from anywhere, so what a file can cost is bounded: its format is one of `FORMATS`, its size at most
`MAX_PIXELS`, its decoding at most `DECODE_SECONDS`, and all files that are decoded at the same time share `MEMORY`.
"""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clipstore.encoders.image_formats import FORMATS, PNG_SIGNATURE, name_format
from clipstore.errors import ImageError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # Pillow warns above this; clipstore refuses such images
DECODE_SECONDS = 20.0  # of processor time of the decoding thread
MEMORY = 2 * 2**30  # bytes for all images that are decoded at the same time

# Bytes per pixel of a format's decoder and the conversion of its result, at most: measured with transparency.
_BYTES_PER_PIXEL = {"JPEG": 5, "MPO": 5, "BMP": 5, "GIF": 6, "PNG": 9, "TIFF": 9, "AVIF": 17}
_PROGRESSIVE, _WEBP = 11, 23

_BLOCK_BYTES = 2**14  # of a progressive JPEG that are decoded at once: the time is checked before each block
_STRIP_PIXELS = 2**20  # that are converted at once

# What Pillow raises for damaged files, found by changing files of every format, as tests/inference does.
DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, ArithmeticError, AttributeError,
    AssertionError, RuntimeError, MemoryError, BufferError, struct.error, zlib.error,
)  # fmt: skip

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


class SharedMemory:
    """Bytes that several threads share. A thread waits until what it needs is free."""

    def __init__(self, total: int) -> None:
        self._total, self._used = total, 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold `size` bytes during the block; all of them, if `size` is more than there are."""
        size = min(size, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= self._total)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


_memory = SharedMemory(MEMORY)


class _TimedBytes(io.BytesIO):
    """The bytes of a file, which cannot be read after the time for decoding.

    Decoders of JPEG, PNG, GIF and BMP read block by block, so that they end then. Those of WebP, AVIF and compressed
    TIFF read everything first; what they take is bounded by the number of pixels.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds, self._end = seconds, time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as `io.BytesIO` does.

        Raises:
            ImageError: the time is over.
        """
        if time.thread_time() > self._end:
            message = f"decoding takes longer than {self._seconds:g} s: save the image again"
            raise ImageError(message)
        return super().read(size)


@contextmanager
def decoded_image(
    data: bytes, *, min_side: int | None = None, seconds: float = DECODE_SECONDS
) -> Iterator[Image.Image]:
    """As `decode_image`, and holds the image's share of `MEMORY` during the block."""
    if not data:
        message = "the file is empty"
        raise ImageError(message)
    with ExitStack() as held:
        try:
            image = _decode(data, min_side, seconds, held)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large() from error
        except UnidentifiedImageError as error:
            message = name_format(data)
            raise ImageError(message) from error
        except DAMAGED as error:
            message = f"damaged: {' '.join(str(error).split()) or type(error).__name__}"
            raise ImageError(message) from error
        yield image


def decode_image(data: bytes, *, min_side: int | None = None, seconds: float = DECODE_SECONDS) -> Image.Image:
    """Decode an image file to three channels of 8 bits, as stored: `apply_orientation` applies its EXIF orientation.

    Of several images in a file it is the first. With `min_side`, a JPEG may be decoded faster, at a reduced size of at
    least `min_side` pixels on both sides. Decoding ends after `seconds` of processor time (see
    `_TimedBytes`).

    Raises:
        ImageError: the bytes are not a readable image of a supported format; with the reason.
    """
    with decoded_image(data, min_side=min_side, seconds=seconds) as image:
        return image


def apply_orientation(image: Image.Image, data: bytes) -> Image.Image:
    """Rotate or mirror a decoded image by the EXIF orientation in its file's bytes; unchanged where there is none.

    Pillow applies the orientation of a TIFF itself when it decodes it.
    """
    try:
        with _open(data, DECODE_SECONDS) as header:
            orientation = None if header.format == "TIFF" else header.getexif().get(ExifTags.Base.Orientation)
    except (*DAMAGED, Warning):  # the pixels were read: only the metadata are damaged
        orientation = None
    transposition = _TRANSPOSITIONS.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def _open(data: bytes, seconds: float) -> Any:
    """Read the header of an image file, of the supported formats only: other parsers of Pillow are not reached."""
    return Image.open(_TimedBytes(data, seconds), formats=FORMATS)


def _decode(data: bytes, min_side: int | None, seconds: float, held: ExitStack) -> Image.Image:
    """Decode to three channels of 8 bits. A PNG whose text Pillow refuses as too large is decoded without its text."""
    try:
        with _open(data, seconds) as image:
            _check_size(image)
            if min_side:
                image.draft(image.mode, (min_side, min_side))
            held.enter_context(_memory.reserve(_decoding_bytes(image)))
            if image.info.get("progressive"):  # a small block can hold many scans
                image.decodermaxblock = _BLOCK_BYTES
            return _check_size(_to_rgb(image))
    except ValueError:
        bare = _strip_png_text(data)
        if len(bare) == len(data):
            raise
        held.close()
        return _decode(bare, min_side, seconds, held)


def _decoding_bytes(image: Image.Image) -> int:
    per_pixel = _BYTES_PER_PIXEL.get(str(image.format), _WEBP)
    if image.info.get("progressive"):  # libjpeg keeps all coefficients
        per_pixel = _PROGRESSIVE
    return per_pixel * image.width * image.height


def _check_size(image: Image.Image) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large()
    return image


def _too_large() -> ImageError:
    return ImageError(f"over the pixel limit ({MAX_PIXELS}): downscale it")


def _strip_png_text(data: bytes) -> bytes:
    """A PNG without its text chunks (PNG specification, 11.3.4), which contain no pixels; other files unchanged."""
    if not data.startswith(PNG_SIGNATURE):
        return data
    chunks, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt"):
            chunks.append(data[start:end])
        start = end
    return b"".join(chunks)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; transparent pixels are blended onto white, as in transformers.

    16-bit grey is scaled here: Pillow would clip it at 255.
    """
    if image.mode.startswith("I;16"):
        return _convert(image, _scale_grey)
    if image.mode in {"I", "F"}:
        message = f"pixels of mode {image.mode} have no fixed range: save the image with 8 or 16 bits"
        raise ImageError(message)
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        return _convert(image, _blend_onto_white)
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def _convert(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image in horizontal strips, so that only one strip has intermediate images."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return convert(image)
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(convert(strip), (0, top))
    return result


def _scale_grey(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")


def _blend_onto_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
