"""A worker process: loads the models of one device, encodes the plan groups that it is given, and reports it."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from clipstore.errors import ClipstoreError
from clipstore.files import FileReader
from clipstore.inference.encode import encode
from clipstore.inference.settings import EncodeSettings, Timings
from clipstore.process import ignore_image_warnings, retain_freed_memory
from clipstore.records import Model, PlanGroup, Tower
from clipstore.shards import Shard, Storage

_POLL_SECONDS = 1.0  # after this time without a task, check that the parent process is alive


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Picklable settings from which a worker process builds its `EncodeSettings`.

    `read` must be a function of a module. `memory` is the device memory for weights and batches, in bytes.
    """

    storage: Storage
    model: Model
    tower: Tower
    store_dtype: str
    memory: int
    compiled: bool
    read: FileReader


@dataclass(frozen=True)
class Message:
    """A message of a worker; without fields it says only that the process runs.

    Attributes:
        ready: the models are loaded.
        shards: complete shards of the oldest plan group that the worker has.
        processed: a tower's fingerprint and a number of items.
        timings, splits: by fingerprint of a tower; the last message.
        failure: an error that ends the run; the last message.
    """

    ready: bool = False
    shards: list[Shard] | None = None
    processed: tuple[str, int] | None = None
    timings: dict[str, Timings] | None = None
    splits: dict[str, int] | None = None
    failure: ClipstoreError | str | None = None


class Sender:
    """Sends messages to the parent process; several threads may use it."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, **fields: Any) -> None:
        """Send a message with these fields; nothing if the parent process has ended."""
        with self._lock, suppress(OSError):
            self._connection.send(Message(**fields))


def run_worker(
    device: str,
    threads: int,
    settings: dict[str, WorkerSettings],
    tasks: Any,
    messages: Connection,
    beat: float,
) -> None:
    """Load the models, then encode plan groups until None comes in place of one.

    While it runs, a message is sent at least every `beat` seconds.
    """
    ignore_image_warnings()
    if device == "cpu":
        retain_freed_memory()
    for name in ("SIGINT", "SIGHUP"):  # the parent receives them too, and ends this process
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sender, ended = Sender(messages), threading.Event()
    threading.Thread(target=_beat, args=(sender, beat, ended), daemon=True).start()
    try:
        encoding = _load_models(device, threads, settings, sender)
        sender.send(ready=True)
        for shards in encode(_receive_groups(tasks), encoding):
            sender.send(shards=shards)
        sender.send(
            timings={fingerprint: tower.timings for fingerprint, tower in encoding.items()},
            splits={fingerprint: tower.splitter.count for fingerprint, tower in encoding.items()},
        )
    except ClipstoreError as error:
        sender.send(failure=error)
    except Exception:  # noqa: BLE001  (sent to the parent with its traceback, and raised there)
        sender.send(failure=traceback.format_exc())
    finally:
        ended.set()
        messages.close()


def _beat(sender: Sender, seconds: float, ended: threading.Event) -> None:
    while not ended.wait(seconds):
        sender.send()


def _receive_groups(tasks: Any) -> Iterator[PlanGroup]:
    """Plan groups from the queue, until there are none or the parent process has ended."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive():
        with suppress(queue.Empty):
            group = tasks.get(timeout=_POLL_SECONDS)
            if group is None:
                return
            yield group


def _load_models(
    device: str, threads: int, settings: Mapping[str, WorkerSettings], sender: Sender
) -> dict[str, EncodeSettings]:
    """Load the models of a worker. Returns their encode settings by fingerprint."""
    import torch

    from clipstore.encoders.encoder import Encoder
    from clipstore.encoders.loading import load_model

    if device == "cpu":
        torch.set_num_threads(threads)
    encoders = {
        fingerprint: Encoder(
            load_model(worker.model), precision=worker.tower.precision, device=device, compiled=worker.compiled
        )
        for fingerprint, worker in settings.items()
    }
    weights = sum(encoder.weight_bytes for encoder in encoders.values())
    return {
        fingerprint: EncodeSettings(
            storage=worker.storage,
            model=worker.model,
            encoder=encoders[fingerprint],
            store_dtype=worker.store_dtype,
            batch_tokens=encoders[fingerprint].batch_tokens(worker.tower.tower, worker.memory - weights),
            on_progress=_ProgressSender(fingerprint, sender),
            read=worker.read,
        )
        for fingerprint, worker in settings.items()
    }


@dataclass(frozen=True)
class _ProgressSender:
    """Sends the number of processed items to the parent process."""

    fingerprint: str
    sender: Sender

    def __call__(self, items: int) -> None:
        self.sender.send(processed=(self.fingerprint, items))
