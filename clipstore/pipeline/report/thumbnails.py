"""A photo as small as a page of many needs it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from clipstore.encoders.images import apply_orientation, decode_image
from clipstore.errors import ImageError
from clipstore.files import read_regular

SIDE = 160  # pixels of the longer side
_QUALITY = 70


def thumbnail(path: Path) -> bytes | None:
    """A photo as WebP, upright, its longer side at most SIDE pixels; None where it is gone or cannot be read."""
    try:
        photo = read_regular(path)
        image = apply_orientation(decode_image(photo, min_side=2 * SIDE), photo)
    except (OSError, ImageError):
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()
