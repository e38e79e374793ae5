"""A fixed image and a fixed caption. Their vectors are stored when a model is first used and compared later."""

from __future__ import annotations

import numpy as np
from PIL import Image

CAPTION = "a photo of two dogs beside a red bicycle, seen from above"

_WIDTH, _HEIGHT = 320, 240


def probe_image() -> Image.Image:
    """An image of smooth colours with a fine texture, computed in integers: identical on every machine."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    texture = (rows * rows * 3 + columns * rows * 5 + columns * 7) % 61
    colours = np.stack(
        [columns * 200 // _WIDTH, rows * 200 // _HEIGHT, (columns + rows) * 200 // (_WIDTH + _HEIGHT)], axis=-1
    )
    return Image.fromarray((colours + texture[..., None] % 55).astype(np.uint8))
