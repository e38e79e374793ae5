"""A worker: loads the models of one device, encodes the plan groups that it is given, and reports it by messages."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipstore.errors import ClipstoreError, ModelError
from clipstore.files import FileReader
from clipstore.inference.encode import encode
from clipstore.inference.feed import GroupFeed
from clipstore.inference.settings import EncodeSettings, Timings
from clipstore.process import ignore_image_warnings, retain_freed_memory
from clipstore.records import Model, Row, Tower
from clipstore.shards import Shard

if TYPE_CHECKING:
    from clipstore.encoders.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Picklable settings from which a worker builds its `EncodeSettings`.

    `read` must be a function of a module. `memory` is the device memory for weights and batches, in bytes. `probes` are
    the stored probes of the tower by component ("image", "backbone", "text"): a worker with another fingerprint or
    vector fails. Empty where the process that starts the worker has compared them on the same machine.
    """

    folder: Path
    model: Model
    tower: Tower
    store_dtype: str
    memory: int
    compiled: bool
    read: FileReader
    probes: Mapping[str, Row] = field(default_factory=dict)


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
        self._encoders: dict[tuple[Model, str, bool], Encoder] = {}
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
        """Load the models that are not loaded yet, and release others. Returns encode settings by fingerprint."""
        import torch

        if self._device == "cpu":
            torch.set_num_threads(self._threads)
        keys = {name: (worker.model, worker.tower.precision, worker.compiled) for name, worker in settings.items()}
        self._encoders = {key: encoder for key, encoder in self._encoders.items() if key in keys.values()}
        for name, worker in settings.items():
            if keys[name] not in self._encoders:
                self._encoders[keys[name]] = _load_encoder(worker, self._device)
            if worker.probes:
                _check_tower(worker, self._encoders[keys[name]])
        weights = sum(encoder.weight_bytes for encoder in self._encoders.values())
        return {
            name: self._encode_settings(name, worker, self._encoders[keys[name]], worker.memory - weights)
            for name, worker in settings.items()
        }

    def _encode_settings(self, name: str, worker: WorkerSettings, encoder: Encoder, memory: int) -> EncodeSettings:
        return EncodeSettings(
            folder=worker.folder,
            model=worker.model,
            encoder=encoder,
            store_dtype=worker.store_dtype,
            batch_tokens=encoder.batch_tokens(worker.tower.tower, memory),
            on_progress=lambda items: self._send(Message(processed=(name, items))),
            read=worker.read,
        )


def start_beat(send: Callable[[Message], None], seconds: float) -> threading.Event:
    """Send an empty message every so many seconds, by a thread of its own, until the event that is returned is set."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(seconds):
            send(Message())

    threading.Thread(target=beat, daemon=True).start()
    return ended


def _load_encoder(worker: WorkerSettings, device: str) -> Encoder:
    from clipstore.encoders.encoder import Encoder
    from clipstore.encoders.loading import load_model

    precision = worker.tower.precision
    return Encoder(load_model(worker.model), precision=precision, device=device, compiled=worker.compiled)


def _check_tower(worker: WorkerSettings, encoder: Encoder) -> None:
    """Compare a loaded tower with the stored probes: fingerprint of its files here, width, data type and vector.

    Raises:
        ModelError: something differs.
    """
    from clipstore.encoders.fingerprint import fingerprint_towers
    from clipstore.encoders.fingerprint_v1 import v1_fingerprints
    from clipstore.encoders.probe_check import check_probe

    model, tower = worker.model, worker.tower
    here = next(t for t in fingerprint_towers(model, tower.precision) if t.tower == tower.tower)
    fingerprints, widths = {tower.tower: here.fingerprint, "backbone": here.backbone}, {"backbone": tower.features_dim}
    legacy = v1_fingerprints(model, tower.precision)
    vectors, device = encoder.probe(), encoder.device.type
    for component, row in worker.probes.items():
        words = f"{model.name}: the {component if component == 'backbone' else f'{component} tower'}"
        if row["fingerprint"] not in (fingerprints[component], legacy.get(component)):
            message = (
                f"{words} has the fingerprint {str(fingerprints[component])[:12]} by its files, and not "
                f"{row['fingerprint'][:12]}: the files of the model must be the same on every node"
            )
            raise ModelError(message)
        vector, width = vectors[component], widths.get(component, tower.dim)
        if vector.shape != (width,) or vector.dtype != "float32":
            message = f"{words} gives {vector.dtype} vectors of {vector.shape}, and not float32 of {width} components"
            raise ModelError(message)
        check_probe(words, tower, vector, dict(row), device, same_rounding=device == row["device"])
