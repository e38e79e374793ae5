"""From uint8 pixels to the input of an image tower, on its device."""

from __future__ import annotations

import torch

from clipstore.encoders.images import AnyPreprocessing


class Normalizer:
    """Scales and normalises pixels: (pixels * scale - mean) / std, as one product and one difference."""

    def __init__(self, preprocessing: AnyPreprocessing, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._factor = preprocessing.scale / std
        self._shift = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1) / std

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Values (B, 3, height, width) of uint8 pixels (B, height, width, 3)."""
        # permute changes the shape alone: values stay in channels-last memory format, which suits convolutions
        batch = pixels.to(self._device).permute(0, 3, 1, 2).float().mul_(self._factor).sub_(self._shift)
        return batch.to(self._dtype)
