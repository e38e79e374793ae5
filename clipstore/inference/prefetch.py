"""Prefetch images for the model: read by many threads, decoded by one thread per core, in order, in bounded memory."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipstore.encoders.decoding import apply_orientation, decoded_image
from clipstore.encoders.images import AnyPreprocessing, preprocess
from clipstore.errors import ImageError
from clipstore.files import READERS, FileReader, read_image_file
from clipstore.inference.settings import Timings
from clipstore.records import ImageFile

_BUFFER_BYTES = 256 * 2**20  # of image files and pixels that are ahead of the model
_BUFFER_IMAGES = 1024

Pixels = NDArray[np.uint8] | str  # (height, width, 3), or the reason why there are none


class _Decoded(NamedTuple):
    pixels: list[Pixels]
    read_seconds: float
    decode_seconds: float


def prefetch_images(
    files: Iterable[ImageFile | None],
    preprocessings: Sequence[AnyPreprocessing],
    timings: Timings,
    *,
    read: FileReader = read_image_file,
) -> Generator[tuple[str, list[Pixels]]]:
    """Read and decode image files ahead of the consumer.

    Each file is decoded once. Yields, in order, its content key and its pixels for each of `preprocessings`. `files`
    gives None where the next file is not known yet; it is asked again after the next image.
    """
    pixel_bytes = sum(3 * preprocessing.most_pixels for preprocessing in preprocessings)
    queue: deque[tuple[ImageFile, Future[_Decoded]]] = deque()
    buffered = 0
    readers, decoders = ThreadPoolExecutor(READERS), ThreadPoolExecutor(os.cpu_count())
    try:
        upcoming = iter(files)
        file: ImageFile | None = None
        while (file := file or next(upcoming, None)) or queue:
            while file and (
                not queue or (buffered + file.size + pixel_bytes < _BUFFER_BYTES and len(queue) < _BUFFER_IMAGES)
            ):
                content = readers.submit(_read, read, file.path)
                queue.append((file, decoders.submit(_decode, content, file.content, preprocessings)))
                buffered += file.size + pixel_bytes
                file = next(upcoming, None)
            first, future = queue.popleft()
            result = future.result()
            buffered -= first.size + pixel_bytes
            timings.read += result.read_seconds
            timings.decode += result.decode_seconds
            yield first.content, result.pixels
    finally:
        for pool in (decoders, readers):
            pool.shutdown(cancel_futures=True)


def _read(read: FileReader, path: str) -> tuple[bytes | str, float]:
    """Returns the bytes of an image file (or the reason why it cannot be read) and the seconds spent."""
    start = time.perf_counter()
    try:
        content: bytes | str = read(Path(path))
    except OSError as error:
        content = f"the image file cannot be read: {error.strerror}"
    return content, time.perf_counter() - start


def _decode(
    reading: Future[tuple[bytes | str, float]], key: str, preprocessings: Sequence[AnyPreprocessing]
) -> _Decoded:
    """Returns the pixels of an image for each preprocessing. Its bytes must have the content key."""
    content, read_seconds = reading.result()
    start = time.perf_counter()
    pixels: list[Pixels]
    if isinstance(content, str):
        pixels = [content] * len(preprocessings)
    elif hashlib.sha256(content).hexdigest() != key:
        pixels = ["the image file changed while it was being embedded: embed again"] * len(preprocessings)
    else:
        pixels = _preprocess(content, preprocessings)
    return _Decoded(pixels, read_seconds, time.perf_counter() - start)


def _preprocess(content: bytes, preprocessings: Sequence[AnyPreprocessing]) -> list[Pixels]:
    try:
        with decoded_image(content) as image:
            return [_preprocess_one(image, content, preprocessing) for preprocessing in preprocessings]
    except ImageError as error:
        return [str(error)] * len(preprocessings)


def _preprocess_one(image: Image.Image, content: bytes, preprocessing: AnyPreprocessing) -> Pixels:
    try:
        return preprocess(apply_orientation(image, content) if preprocessing.exif_orientation else image, preprocessing)
    except ImageError as error:
        return str(error)
