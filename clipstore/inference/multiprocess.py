"""Encode on several devices: each has a worker process that pulls plan groups from a shared queue."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

from clipstore.errors import ClipstoreError, ModelError
from clipstore.files import FileReader
from clipstore.inference.batches import BatchSplitter
from clipstore.inference.encode import encode
from clipstore.inference.settings import EncodeSettings, Timings
from clipstore.process import ignore_image_warnings, retain_freed_memory
from clipstore.records import Model, PlanGroup, Tower
from clipstore.shards import Shard

# Plan groups queued per worker. A worker can dequeue its fourth before it returns the first, so fewer would deadlock.
_QUEUE_PER_WORKER = 4
_POLL_SECONDS = 1.0  # after this time without a message, check that the other process is alive


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Picklable settings from which a worker process builds its `EncodeSettings`.

    `read` must be a function of a module. `memory` is the device memory for weights and batches, in bytes.
    """

    folder: Path
    model: Model
    tower: Tower
    store_dtype: str
    memory: int
    compiled: bool
    read: FileReader


@dataclass(frozen=True)
class _Message:
    """A message of a worker: shards or processed items, and one last message: timings and splits, or a failure.

    `shards` are complete. `processed` is a tower's fingerprint and a number of items. `timings` and `splits` are by
    fingerprint of a tower.
    """

    shards: list[Shard] | None = None
    processed: tuple[str, int] | None = None
    timings: dict[str, Timings] | None = None
    splits: dict[str, int] | None = None
    failure: ClipstoreError | str | None = None


def cpu_threads(devices: Sequence[str]) -> int:
    """Threads of a worker on the CPU, where there is one worker per device."""
    return max(1, (os.cpu_count() or 1) // len(devices))


def encode_in_processes(
    devices: list[str],
    groups: Iterable[PlanGroup],
    settings: Mapping[str, WorkerSettings],
    timings: Mapping[str, Timings],
    splitters: Mapping[str, BatchSplitter],
    on_progress: Callable[[str, int], None],
) -> Iterator[list[Shard]]:
    """Encode plans as `encode` does, in one worker process per device. The order of groups is not preserved.

    `settings`, `timings` and `splitters` are by fingerprint of a plan's tower. `on_progress` is called with that
    fingerprint and a number of items. The workers' timings are added to `timings`. Each splitter gets the
    largest count of the workers.

    Raises:
        ClipstoreError: as `encode`, or a worker ended unexpectedly.
    """
    context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
    tasks, messages = context.Queue(), context.Queue()
    workers = [
        context.Process(
            target=_worker_main, args=(device, cpu_threads(devices), dict(settings), tasks, messages), daemon=True
        )
        for device in devices
    ]
    for worker in workers:
        worker.start()
    try:
        upcoming = chain(groups, repeat(None, len(devices)))  # a worker ends at a None
        for group in islice(upcoming, _QUEUE_PER_WORKER * len(devices)):
            tasks.put(group)
        running = len(devices)
        while running:
            message = _receive(messages, workers, devices)
            if message.processed:
                on_progress(*message.processed)
            elif message.timings is not None:
                running -= 1
                _add_timings(timings, message.timings)
                for fingerprint, count in (message.splits or {}).items():
                    splitters[fingerprint].count = max(splitters[fingerprint].count, count)
            elif message.shards is not None:
                for group in islice(upcoming, 1):
                    tasks.put(group)
                yield message.shards
    finally:
        tasks.cancel_join_thread()  # groups that no worker takes would block the end of this process
        for worker in workers:
            worker.terminate()
            worker.join()


def _receive(messages: Any, workers: list[Any], devices: list[str]) -> _Message:
    """The next message of a worker.

    Raises:
        ClipstoreError: the worker's failure, or a worker ended unexpectedly.
    """
    while True:
        try:
            message: _Message = messages.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            for device, worker in zip(devices, workers, strict=True):
                if worker.exitcode not in {None, 0}:
                    text = (
                        f"the process on {device} ended unexpectedly (exit code {worker.exitcode}): "
                        "run the same command again"
                    )
                    raise ModelError(text) from None
            continue
        if isinstance(message.failure, ClipstoreError):
            raise message.failure
        if message.failure:
            text = f"unexpected error in a worker process:\n{message.failure}"
            raise RuntimeError(text)
        return message


def _add_timings(totals: Mapping[str, Timings], timings: Mapping[str, Timings]) -> None:
    for fingerprint, update in timings.items():
        total = totals[fingerprint]
        for field in fields(Timings):
            setattr(total, field.name, getattr(total, field.name) + getattr(update, field.name))


def _worker_main(device: str, threads: int, settings: dict[str, WorkerSettings], tasks: Any, messages: Any) -> None:
    """Worker main loop: load the models, then encode plan groups until there are none."""
    ignore_image_warnings()
    if device == "cpu":
        retain_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and ends this process
    try:
        encoding = _load_worker_models(device, threads, settings, messages)
        for shards in encode(_receive_groups(tasks), encoding):
            messages.put(_Message(shards=shards))
        messages.put(
            _Message(
                timings={fingerprint: tower.timings for fingerprint, tower in encoding.items()},
                splits={fingerprint: tower.splitter.count for fingerprint, tower in encoding.items()},
            )
        )
    except ClipstoreError as error:
        messages.put(_Message(failure=error))
    except Exception:  # noqa: BLE001  (sent to the parent with its traceback, and raised there)
        messages.put(_Message(failure=traceback.format_exc()))
    finally:
        if not _parent_is_alive():
            messages.cancel_join_thread()  # no process reads them any more


def _parent_is_alive() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def _receive_groups(tasks: Any) -> Iterator[PlanGroup]:
    """Plan groups from the queue, until there are none or the parent process has ended."""
    while _parent_is_alive():
        with suppress(queue.Empty):
            group = tasks.get(timeout=_POLL_SECONDS)
            if group is None:
                return
            yield group


def _load_worker_models(
    device: str, threads: int, settings: Mapping[str, WorkerSettings], messages: Any
) -> dict[str, EncodeSettings]:
    """Load the models of a worker. Returns their encode settings by fingerprint."""
    import torch

    from clipstore.encoders.clip import ClipEncoder
    from clipstore.encoders.loading import load_clip

    if device == "cpu":
        torch.set_num_threads(threads)
    encoders = {
        fingerprint: ClipEncoder(
            load_clip(worker.model), precision=worker.tower.precision, device=device, compiled=worker.compiled
        )
        for fingerprint, worker in settings.items()
    }
    weights = sum(encoder.weight_bytes for encoder in encoders.values())
    return {
        fingerprint: EncodeSettings(
            folder=worker.folder,
            model=worker.model,
            encoder=encoders[fingerprint],
            store_dtype=worker.store_dtype,
            batch_tokens=encoders[fingerprint].batch_tokens(worker.tower.tower, worker.memory - weights),
            on_progress=_ProgressSender(fingerprint, messages),
            read=worker.read,
        )
        for fingerprint, worker in settings.items()
    }


@dataclass(frozen=True)
class _ProgressSender:
    """Sends the number of processed items to the parent process."""

    fingerprint: str
    messages: Any

    def __call__(self, items: int) -> None:
        self.messages.put(_Message(processed=(self.fingerprint, items)))
