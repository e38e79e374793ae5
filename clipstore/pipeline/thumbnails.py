"""Thumbnails of image files, for the report and for the panel of `clipstore retrieve`."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from clipstore.encoders.decoding import apply_orientation, decoded_image
from clipstore.errors import ImageError
from clipstore.files import read_image_file

REPORT_SIDE = 160  # pixels of the longer side
_QUALITY = 70


def thumbnail(path: Path, side: int) -> Image.Image | None:
    """An image file, upright, its longer side at most `side` pixels; None if it is missing or unreadable."""
    try:
        data = read_image_file(path)
        with decoded_image(data, min_side=2 * side) as image:
            upright = apply_orientation(image, data)
            upright.thumbnail((side, side), Image.Resampling.LANCZOS)
            return upright
    except (OSError, ImageError):
        return None


def webp_thumbnail(path: Path) -> bytes | None:
    """A thumbnail for the report, as WebP; None if the image file is missing or unreadable."""
    image = thumbnail(path, REPORT_SIDE)
    if image is None:
        return None
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()
