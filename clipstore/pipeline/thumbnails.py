"""A photo as small as a page of many needs it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from clipstore.encoders.images import decoded
from clipstore.errors import PhotoError

SIDE = 160  # pixels of the longer side
_QUALITY = 70


def thumbnail(path: Path) -> bytes | None:
    """A photo as WebP, its longer side at most SIDE pixels; None where it is gone or cannot be read."""
    try:
        image = decoded(path.read_bytes(), least=2 * SIDE)
    except (OSError, PhotoError):
        return None
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=2)
    return out.getvalue()
