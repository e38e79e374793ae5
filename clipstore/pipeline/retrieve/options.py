"""The options of `clipstore retrieve`."""

from __future__ import annotations

from dataclasses import dataclass

from clipstore import choices
from clipstore.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions:
    """How to search.

    Attributes:
        top: hits of each query.
        partial: search only the items embedded so far, instead of raising an error.
        memory: bytes for the model on its device, and for the ranking.
        device: where both run; None: CUDA if available, else the CPU.
        thumbnails: also return the thumbnails of a panel.
        on_progress: called while queries are encoded.
    """

    top: int = 5
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str | None = None
    thumbnails: bool = False
    on_progress: Progress = no_progress
