"""Copies to CUDA devices that overlap with computation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray


def copy_to(device: str, values: NDArray[Any]) -> torch.Tensor:
    """A copy on a device; from page-locked memory to a CUDA device, which copies while it computes."""
    tensor = torch.from_numpy(values)
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class CopyStream:
    """A stream of a CUDA device for preparing blocks while tiles are screened; nothing on another device."""

    def __init__(self, device: str) -> None:
        self._stream: torch.cuda.Stream | None = None
        if torch.device(device).type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Within it, work is put into the stream; at the end it is complete.

        Memory that was allocated within it is reused by the stream when it is freed. This is safe for blocks of which
        every result has been copied to the host.
        """
        if self._stream is None:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
            self._stream.synchronize()
