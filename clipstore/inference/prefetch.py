"""Photos ahead of the model: read by many threads, decoded by one a core, handed over in order, bounded in bytes."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipstore.encoders.images import Preprocessing, apply_orientation, decode_image, preprocess
from clipstore.errors import ImageError
from clipstore.files import read_regular

READERS = 32  # threads that read photos: on a network disk one waits far longer than it works
_AHEAD_BYTES = 256 * 2**20  # of photos that are ahead of the model, as files and as pixels
_AHEAD_PHOTOS = 1024

Read = Callable[[Path], bytes]
Pixels = NDArray[np.uint8] | str  # or what is wrong with the photo


@dataclass
class Timings:
    """Where the time of a run went, in seconds added up over the threads that do it; `wait` is the model's, idle."""

    read: float = 0.0
    decode: float = 0.0
    forward: float = 0.0
    wait: float = 0.0
    write: float = 0.0

    def since(self, before: Timings) -> Timings:
        """What was spent since the clock stood as `before`."""
        return Timings(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A photo to decode: its content key, its path, and how many bytes it has (0: unknown)."""

    content: str
    path: str
    size: int


def prefetch_images(
    photos: Iterable[ImageFile], hows: Sequence[Preprocessing], clock: Timings, *, read: Read = read_regular
) -> Generator[tuple[str, list[Pixels]]]:
    """The content key of each photo, in order, and its pixels as each of `hows` wants them, decoded once."""
    room = sum(3 * how.crop[0] * how.crop[1] for how in hows)
    waiting: deque[tuple[ImageFile, Future[tuple[list[Pixels], float, float]]]] = deque()
    held = 0
    readers, decoders = ThreadPoolExecutor(READERS), ThreadPoolExecutor(os.cpu_count())
    try:
        coming = iter(photos)
        photo = next(coming, None)
        while photo or waiting:
            while photo and (not waiting or (held + photo.size + room < _AHEAD_BYTES and len(waiting) < _AHEAD_PHOTOS)):
                reading = readers.submit(_timed_read, read, photo.path)
                waiting.append((photo, decoders.submit(_decode, reading, photo.content, hows)))
                held += photo.size + room
                photo = next(coming, None)
            done, future = waiting.popleft()
            pixels, read_seconds, decode_seconds = future.result()
            held -= done.size + room
            clock.read += read_seconds
            clock.decode += decode_seconds
            yield done.content, pixels
    finally:
        for pool in (decoders, readers):
            pool.shutdown(cancel_futures=True)


def _timed_read(read: Read, path: str) -> tuple[bytes | str, float]:
    """A photo's bytes, or what is wrong; and the seconds taken."""
    began = time.perf_counter()
    try:
        photo: bytes | str = read(Path(path))
    except OSError as error:
        photo = f"the photo cannot be read: {error.strerror}"
    return photo, time.perf_counter() - began


def _decode(
    reading: Future[tuple[bytes | str, float]], content: str, hows: Sequence[Preprocessing]
) -> tuple[list[Pixels], float, float]:
    """A photo's pixels for each preprocessing, the seconds that reading took, and those that decoding took."""
    photo, read_seconds = reading.result()
    began = time.perf_counter()
    got: list[Pixels]
    if isinstance(photo, str):
        got = [photo] * len(hows)
    elif hashlib.sha256(photo).hexdigest() != content:
        got = ["the photo changed while it was being embedded: embed again"] * len(hows)
    else:
        got = _prepared(photo, hows)
    return got, read_seconds, time.perf_counter() - began


def _prepared(photo: bytes, hows: Sequence[Preprocessing]) -> list[Pixels]:
    try:
        image = decode_image(photo)
    except ImageError as error:
        return [str(error)] * len(hows)
    got: list[Pixels] = []
    for how in hows:
        try:
            got.append(preprocess(apply_orientation(image, photo) if how.exif_orientation else image, how))
        except ImageError as error:
            got.append(str(error))
    return got
