"""The settings of encoding, and its timings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING

from clipstore.files import FileReader, read_image_file
from clipstore.inference.batches import BatchSplitter
from clipstore.records import Model
from clipstore.shards import Storage

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder


@dataclass
class Timings:
    """Seconds spent in each stage, summed over its threads. `wait` is the idle time of the model's threads."""

    read: float = 0.0
    decode: float = 0.0
    forward: float = 0.0
    wait: float = 0.0
    write: float = 0.0

    def since(self, earlier: Timings) -> Timings:
        """The difference to earlier timings of the same run."""
        return Timings(*(now - before for now, before in zip(astuple(self), astuple(earlier), strict=True)))


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How the plans of one tower are encoded.

    Attributes:
        storage: where shards are written, and those of features are.
        batch_tokens: tokens per batch.
        on_progress: called from several threads, with the number of items that were encoded or have failed.
        store_dtype: data type of the vectors that are written, float32 or float16.
        timings, splitter: updated by every plan.
        read: reads an image file.
    """

    storage: Storage
    model: Model
    encoder: Encoder
    batch_tokens: int
    on_progress: Callable[[int], None] = lambda _items: None
    store_dtype: str = "float32"
    timings: Timings = field(default_factory=Timings)
    splitter: BatchSplitter = field(default_factory=BatchSplitter)
    read: FileReader = read_image_file
