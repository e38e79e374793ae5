"""Batches: the threads that run the model, the computation for each source, and splitting when memory runs out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipstore.device import out_of_memory
from clipstore.errors import ModelError
from clipstore.records import PlanSource, RegisteredShard
from clipstore.shards import gather

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder

_QUEUE_PER_THREAD = 3  # batches per thread of the model, including the one that it computes

Result = TypeVar("Result")

Floats = NDArray[np.float32]
Outputs = tuple[Floats, Floats | None]  # vectors (B, dim), and features (B, features_dim) where they are computed


@dataclass
class BatchSplitter:
    """Splits batches. `count`, the number of parts, doubles after each out-of-memory error."""

    count: int = 1

    def run(self, compute: Callable[[list[Any]], Outputs], items: list[Any]) -> Outputs:
        """The concatenated outputs of `compute` over the parts of a batch.

        Raises:
            ModelError: a single item does not fit the device memory.
        """
        while True:
            count = min(self.count, len(items))
            size = -(-len(items) // count)
            try:
                outputs = [compute(items[start : start + size]) for start in range(0, len(items), size)]
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if count == len(items):
                    message = f"out of device memory for a single item ({error}): use another --device"
                    raise ModelError(message) from error
                self.count = max(self.count, 2 * count)
            else:
                vectors = np.concatenate([vectors for vectors, _ in outputs])
                return vectors, concatenate(features for _, features in outputs)


@dataclass(frozen=True)
class Batch:
    """The outputs of a batch: content keys, vectors, features or None, and the seconds of the forward pass."""

    contents: list[str]
    vectors: Floats
    features: Floats | None
    seconds: float


class ModelThreads(AbstractContextManager["ModelThreads"]):
    """The threads that run the model. On a CPU each computes with one torch thread, so that no core waits for another.

    The number of torch threads is restored at the end.
    """

    def __init__(self, workers: int) -> None:
        import torch

        self._torch_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(workers, "clipstore-model", torch.set_num_threads, (1,))
        self._slots = threading.BoundedSemaphore(_QUEUE_PER_THREAD * workers)

    def __exit__(self, error: object, *_: object) -> None:
        import torch

        self._pool.shutdown(cancel_futures=error is not None)
        torch.set_num_threads(self._torch_threads)

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Queue a batch. Blocks while the queue is full."""
        self._slots.acquire()
        future = self._pool.submit(task)
        future.add_done_callback(lambda _: self._slots.release())
        return future


def compute_batch(
    encoder: Encoder, splitter: BatchSplitter, source: PlanSource, contents: list[str], items: list[Any]
) -> Batch:
    """Encode a batch of pixels ("image_files"), token ids ("texts") or (shard, row) pairs ("features")."""
    start = time.perf_counter()
    vectors, features = splitter.run(partial(_COMPUTE[source], encoder), items)
    return Batch(contents, vectors, features, time.perf_counter() - start)


def _encode_images(encoder: Encoder, items: list[NDArray[np.uint8]]) -> Outputs:
    features = encoder.image_features(items)
    return (encoder.project(features), features) if encoder.has_head else (features, None)


def _encode_texts(encoder: Encoder, items: list[list[int]]) -> Outputs:
    return encoder.text_vectors(items), None


def _project_features(encoder: Encoder, items: list[tuple[RegisteredShard, int]]) -> Outputs:
    numbers = {shard: number for number, shard in enumerate(dict.fromkeys(shard for shard, _ in items))}
    which = np.array([numbers[shard] for shard, _ in items])
    return encoder.project(gather(list(numbers), which, np.array([row for _, row in items]))), None


_COMPUTE: Mapping[PlanSource, Callable[[Encoder, Any], Outputs]] = {
    "image_files": _encode_images,
    "texts": _encode_texts,
    "features": _project_features,
}


def concatenate(arrays: Iterable[Floats | None]) -> Floats | None:
    """Concatenate the arrays (B, D) that are not None. Returns None if there are none."""
    present = [array for array in arrays if array is not None]
    return np.concatenate(present) if present else None
