"""The options of `clipstore retrieve`."""

from __future__ import annotations

from dataclasses import dataclass

from clipstore import choices
from clipstore.pipeline.retrieve.download import DEFAULT_RULES, DownloadRules
from clipstore.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class RetrieveOptions:
    """How to search.

    Attributes:
        top: hits of each query.
        partial: search only the items embedded so far, instead of raising an error.
        memory: bytes for the model on its device, and for the ranking.
        device: where both run; None: CUDA if available, else the CPU.
        downloads: what the download of an image may do.
        thumbnails: also return the thumbnails of a panel.
        on_progress: called while queries are encoded.
    """

    top: int = 5
    partial: bool = False
    memory: int = choices.DEFAULT_MEMORY
    device: str | None = None
    downloads: DownloadRules = DEFAULT_RULES
    thumbnails: bool = False
    on_progress: Progress = no_progress
