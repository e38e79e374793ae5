"""A worker: loads the models of one device, encodes the plan groups that it is given, and reports it by messages."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from clipstore.errors import ClipstoreError
from clipstore.inference.encode import encode
from clipstore.inference.feed import GroupFeed
from clipstore.inference.loading import Encoders, WorkerSettings, check_models, load_models
from clipstore.inference.settings import EncodeSettings, Timings
from clipstore.process import ignore_image_warnings, retain_freed_memory
from clipstore.shards import Shard


@dataclass(frozen=True)
class Message:
    """A message of a worker; without fields it says only that the process runs.

    Attributes:
        ready: the models are loaded.
        shards: complete shards of the oldest plan group that the worker has.
        processed: a tower's fingerprint and a number of items.
        timings, splits: by fingerprint of a tower; the last message.
        failure: an error that ends the run, or a traceback; the last message.
    """

    ready: bool = False
    shards: list[Shard] | None = None
    processed: tuple[str, int] | None = None
    timings: dict[str, Timings] | None = None
    splits: dict[str, int] | None = None
    failure: ClipstoreError | str | None = None


class Worker:
    """The models of one device, which stay loaded between runs; `send` takes messages from several threads."""

    def __init__(self, device: str, threads: int, send: Callable[[Message], None]) -> None:
        self._device, self._threads, self._send = device, threads, send
        self._encoders: Encoders = {}
        ignore_image_warnings()
        if device == "cpu":
            retain_freed_memory()

    def run(self, settings: Mapping[str, WorkerSettings], feed: GroupFeed) -> None:
        """Load the models of some towers (by fingerprint) and encode plan groups until the feed ends."""
        try:
            encoding = self._load(settings)
            self._send(Message(ready=True))
            for _ in encode(feed, encoding, on_written=lambda shards: self._send(Message(shards=shards))):
                pass
            timings = {fingerprint: tower.timings for fingerprint, tower in encoding.items()}
            splits = {fingerprint: tower.splitter.count for fingerprint, tower in encoding.items()}
            self._send(Message(timings=timings, splits=splits))
        except ClipstoreError as error:
            self._send(Message(failure=error))
        except Exception:  # noqa: BLE001  (sent with its traceback, and raised by the process that gave the groups)
            self._send(Message(failure=traceback.format_exc()))

    def _load(self, settings: Mapping[str, WorkerSettings]) -> dict[str, EncodeSettings]:
        """Load and check the models that are not loaded yet, and release others. Returns encode settings."""
        import torch

        if self._device == "cpu":
            torch.set_num_threads(self._threads)
        encoding = load_models(settings, self._device, self._progress_of, loaded=self._encoders)
        check_models({name: worker for name, worker in settings.items() if worker.probes}, encoding)
        return encoding

    def _progress_of(self, fingerprint: str) -> Callable[[int], None]:
        return lambda items: self._send(Message(processed=(fingerprint, items)))


def start_beat(send: Callable[[Message], None], seconds: float) -> threading.Event:
    """Send an empty message every so many seconds, by a thread of its own, until the event that is returned is set."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            send(Message())

    threading.Thread(target=beat, daemon=True).start()
    return ended
