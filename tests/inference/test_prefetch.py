"""Image files are read and decoded ahead of the consumer: in order, once, in bounded memory."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from counting_reader import CountingReader
from PIL import Image

from clipstore.encoders.images import decode_pixels, read_preprocessing
from clipstore.encoders.locate import locate
from clipstore.encoders.model_files import preprocessor_file
from clipstore.inference.prefetch import prefetch_images
from clipstore.inference.settings import Timings
from clipstore.records import ImageFile

PREPROCESSING = read_preprocessing(preprocessor_file(locate("bundled:demo")))


@pytest.fixture(scope="module")
def files(scenes: Path) -> list[ImageFile]:
    return [
        ImageFile(sha256(path.read_bytes()).hexdigest(), str(path), path.stat().st_size)
        for path in sorted((scenes / "val").iterdir())
    ]


def test_images_are_in_order_and_have_pixels_for_each_preprocessing(files: list[ImageFile]) -> None:
    timings = Timings()
    results = list(prefetch_images(files, [PREPROCESSING, PREPROCESSING], timings))
    assert [content for content, _ in results] == [file.content for file in files]
    for file, (_, variants) in zip(files, results, strict=True):
        for pixels in variants:
            assert np.array_equal(pixels, decode_pixels(Path(file.path).read_bytes(), PREPROCESSING))
    assert timings.read > 0
    assert timings.decode > 0


def test_the_buffer_is_bounded_in_bytes(files: list[ImageFile]) -> None:
    """Of files with a stated size of 64 MB, at most four are read before they are consumed."""
    reader = CountingReader()
    large = [ImageFile(file.content, file.path, 64 * 2**20) for file in files]
    for consumed, _ in enumerate(prefetch_images(large, [PREPROCESSING], Timings(), read=reader), 1):
        assert reader.reads.total() - consumed < 4
    assert reader.reads.total() == len(files)


def test_a_file_with_other_bytes_than_its_content_key_is_refused(files: list[ImageFile], tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    changed = ImageFile(files[0].content, str(tmp_path / "other.png"), 0)
    ((_, (reason,)),) = prefetch_images([changed], [PREPROCESSING], Timings())
    assert isinstance(reason, str)
    assert "changed while it was being embedded: embed again" in reason


def test_closing_early_ends_the_threads(files: list[ImageFile]) -> None:
    reader = CountingReader()
    images = prefetch_images(files * 200, [PREPROCESSING], Timings(), read=reader)
    next(images)
    images.close()
    assert reader.reads.total() < 200 * len(files)
