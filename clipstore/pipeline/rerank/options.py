"""The options of `clipstore rerank`."""

from __future__ import annotations

from dataclasses import dataclass

from clipstore import choices
from clipstore.files import FileReader, read_image_file
from clipstore.hints import RERANK_TOP
from clipstore.pipeline.evaluate.options import check_top
from clipstore.progress import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class RerankOptions:
    """Which pairs to score, and how.

    Attributes:
        first: the model whose first candidates are scored; None: the reranker itself, by its own vectors.
        top: the number of candidates of each query; a query with fewer has all scored.
        captions: the captions of each image in the gallery. None: those that the protocol defines.
        memory: device memory for weights and batches, in bytes.
        device: None: CUDA if available, else the CPU.
        shard_pairs: pairs of a shard, which is what an interrupted run loses; that of the last image may exceed it.
        read: reads an image file, in place of the file system.

    Raises:
        OptionError: a value is out of range.
    """

    first: str | None = None
    top: int = RERANK_TOP
    protocol: choices.ProtocolChoice = "standard"
    captions: choices.CaptionsChoice | None = None
    precision: choices.MatchingPrecisionChoice = "fp32"
    memory: int = choices.DEFAULT_MEMORY
    device: str | None = None
    shard_pairs: int = 2**14
    on_progress: Progress = no_progress
    read: FileReader = read_image_file

    def __post_init__(self) -> None:
        choices.check(self)
        check_top(self.top)
